"""The least that Django needs.

export DJANGO_SETTINGS_MODULE=web_django.settings
python -m django migrate --run-syncdb
gunicorn web_django.wsgi
"""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only for a look at it on this machine")
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["web_django"]
ROOT_URLCONF = "web_django.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
