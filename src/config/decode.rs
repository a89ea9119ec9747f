//! TOML and JSON text → objects and problems.
