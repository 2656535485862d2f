"""Telex on RabbitMQ beside aiormq, aio-pika, FastStream, Celery and Dramatiq: one broker, quorum queues, one run."""
