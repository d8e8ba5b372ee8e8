"""A small shop in Django, for the tests: notes, sessions in the database, a transaction around each request."""
