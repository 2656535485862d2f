"""Django: a message leaves when the transaction has committed, and only then."""
