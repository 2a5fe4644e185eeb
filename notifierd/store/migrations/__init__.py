"""The steps that lead to the present schema, and which of them a database has."""
