"""This backend inside other people's programs; a module's first lines name the package it needs."""
