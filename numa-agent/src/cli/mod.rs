//! The command line: one file per subcommand; results become exit codes in `main`.
