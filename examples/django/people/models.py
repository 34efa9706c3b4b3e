"""Tables that Supabase's migrations own; Django only reads and writes their rows."""

from django.db import models


class Person(models.Model):
    name = models.TextField()
    plan = models.TextField()

    class Meta:
        managed = False
        db_table = "profiles"
