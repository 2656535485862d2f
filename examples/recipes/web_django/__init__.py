"""Django: a message leaves when the transaction has committed, and not if it was rolled back."""
