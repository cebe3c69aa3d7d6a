//! `lobbyd check`: checks a configuration as the start does, without starting.
//!
//! Listens on no address and writes no file, so it can be run while the server runs with the same configuration. Whether an
//! address is free is known only at the start.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::ArgMatches;
use lobbyd::net::{certificate_warning, check_files};

use super::failure::{Refusal, escaped};
use super::options::Options;
use super::output;
use super::summary::summary;

pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let options = match Options::read(matches) {
        Ok(options) => options,
        Err(refusal) => return refusal.report(),
    };
    let problems: Vec<String> = check_files(&options.config).iter().map(|error| options.describe(error)).collect();
    if !problems.is_empty() {
        return Refusal { problems, format: options.format }.report();
    }
    let without_effect = options.config.without_effect();
    let warnings = options.warnings.iter().cloned().chain(without_effect.iter().map(ToString::to_string));
    let warnings = warnings.chain(certificate_warning(&options.config));
    let warnings: String = warnings.map(|warning| format!("warning: {}\n", escaped(&warning))).collect();
    let _ = io::stderr().write_all(warnings.as_bytes());
    let summary = summary(&options.config);
    let lines = ["ok"].into_iter().chain(summary.iter().map(String::as_str));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    output::print(text.as_bytes())
}
