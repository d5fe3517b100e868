//! Applies `sql/` to a database.
