"""Addresses of the views."""

from django.urls import path

from people import views

urlpatterns = [
    path("people/<int:person_id>", views.person),
    path("people/<int:person_id>/upgrade", views.upgrade),
]
