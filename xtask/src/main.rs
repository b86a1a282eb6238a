//! `cargo xtask`: the project's own commands, one file each.

mod bench;
mod cargo;
mod conformance;
mod engine;
mod fuzz;
mod hostile;
mod image;
mod interrupt;
mod lambda;
mod log;
mod process;
mod provision;
mod run_folder;
mod say;
mod services;
mod test_all;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::{interrupt::Interrupted, say::say};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's own commands")]
#[command(disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check and every test; with a filter, only the tests with it in their names
    TestAll(test_all::Args),
    /// Start the test services and keep them until Ctrl-C, or while a command runs
    Services(services::Args),
    /// Measure Strait beside its peers
    Bench(bench::Args),
    /// Test the socket with Autobahn's fuzzing client
    Conformance(conformance::Args),
    /// Fuzz the readers of clients' bytes
    Fuzz(fuzz::Args),
    /// Attack a server with hostile clients and print the cost
    Hostile(hostile::Args),
    /// Run the chat as a Lambda function behind the local gateway
    Lambda(lambda::Args),
    /// Build the container image of the test services, where a Docker engine answers
    Image(image::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help on request is no mistake: status 0. All else: status 2.
            let status = u8::try_from(error.exit_code()).unwrap_or(2);
            // With a closed stdout or stderr there is no reader to inform.
            let _ = error.print();
            if error.kind() == ErrorKind::InvalidSubcommand {
                complain(format_args!("commands: {}", command_names()));
            }
            return ExitCode::from(status);
        }
    };
    let Some(command) = cli.command else {
        say(Cli::command().render_help());
        return ExitCode::SUCCESS;
    };
    let outcome = interrupt::listen().and_then(|()| match command {
        Command::TestAll(args) => test_all::run(&args),
        Command::Services(args) => services::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Hostile(args) => hostile::run(&args),
        Command::Lambda(args) => lambda::run(&args),
        Command::Image(args) => image::run(&args),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("error: {error:#}"));
            match error.downcast_ref::<Interrupted>() {
                Some(interrupted) => ExitCode::from(interrupted.exit_status()),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn command_names() -> String {
    Cli::command().get_subcommands().map(clap::Command::get_name).collect::<Vec<_>>().join(", ")
}

fn complain(message: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}
