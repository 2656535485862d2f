"""Where the views are."""

from django.urls import path

from .views import create

urlpatterns = [path("orders", create)]
