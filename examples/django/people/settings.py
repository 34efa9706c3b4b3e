"""Settings of the project: what it needs, and nothing else."""

import os

from psycopg.conninfo import conninfo_to_dict

_database = conninfo_to_dict(os.environ["DATABASE_URL"])

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.pop("dbname"),
        "OPTIONS": _database,
    }
}
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
DEBUG = False
INSTALLED_APPS = ["people"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "people.urls"
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for trying it out")
USE_TZ = True
WSGI_APPLICATION = "people.wsgi.application"
