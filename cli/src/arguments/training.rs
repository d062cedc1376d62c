//! What is asked and told of training.

use super::FormArguments;
use clap::Subcommand;
use std::path::PathBuf;

/// Training of model versions. It is in an answer only where `sci --extended` asks for it.
#[derive(Debug, Subcommand)]
pub enum TrainingCommand {
    /// Disclose the training of a version, or correct an error in a disclosure (JSON, cli/schema/training.schema.json)
    Set {
        /// The document
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// The pools and their ledgers
    List(FormArguments),
    /// One pool: its ledger, what is and what is not disclosed, and everything that happened to it
    Show {
        /// The pool
        pool: String,
        /// How it is printed.
        #[command(flatten)]
        form: FormArguments,
    },
    /// Expect the version to serve other units from now on
    Revise {
        /// The pool
        pool: String,
        /// N
        #[arg(long)]
        units: f64,
        /// On what evidence
        #[arg(long)]
        reason: String,
    },
    /// End a version: it is charged no more, what remains is booked by its policy
    Retire {
        /// The pool
        pool: String,
        /// Pool that takes over what remains
        #[arg(long, value_name = "POOL")]
        successor: Option<String>,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Print the disclosure of a pool as `import` reads it
    Export {
        /// The pool
        pool: String,
    },
    /// Disclose what another Joulebook exported
    Import {
        /// The document
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}
