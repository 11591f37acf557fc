"""Door: what Celery calls. A wire name, and the step behind it."""
