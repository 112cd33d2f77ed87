//! `vault-aws man` and `vault-aws completions`: both made of the command line itself, so that neither
//! can say anything else than `--help`.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{CommandFactory as _, builder::Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Why nothing was printed or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// stdout.
    #[error("writing to stdout")]
    Output(#[source] io::Error),
    /// A manual page.
    #[error("writing {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Prints the manual page of `vault-aws`, or writes those of all its commands into a folder.
pub fn man(folder: Option<&Path>, mut stdout: impl Write) -> Result<(), Error> {
    let mut command = Cli::command();
    command.build();
    let Some(folder) = folder else {
        return Man::new(command).render(&mut stdout).map_err(Error::Output);
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, command) in pages(&command) {
        let path = folder.join(format!("{name}.1"));
        let mut page = Vec::new();
        Man::new(command.display_name(&name))
            .title(&name)
            .render(&mut page)
            .and_then(|()| fs::write(&path, page))
            .map_err(failed(&path))?;
    }
    Ok(())
}

/// The command and those below it, by the names of their pages.
fn pages(command: &Command) -> Vec<(String, Command)> {
    let mut all = Vec::new();
    let mut left = vec![(command.get_name().to_owned(), command.clone())];
    while let Some((name, command)) = left.pop() {
        let below = command.get_subcommands().filter(|command| {
            // clap adds `help` to each.
            command.get_name() != "help" && !command.is_hide_set()
        });
        left.extend(below.map(|below| (format!("{name}-{}", below.get_name()), below.clone())));
        all.push((name, command));
    }
    all
}

/// Prints what makes a shell complete the command line.
pub fn completions(shell: Shell, mut stdout: impl Write) -> Result<(), Error> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // clap_complete panics where it cannot write, as into a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    stdout.write_all(&script).map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let mut command = Cli::command();
        command.build();
        let names: Vec<String> = pages(&command).into_iter().map(|(name, _)| name).collect();
        for command in Cli::command().get_subcommands() {
            let name = format!("vault-aws-{}", command.get_name());
            assert!(command.is_hide_set() || names.contains(&name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.ends_with("help")), "{names:?}");
    }

    #[test]
    fn a_page_has_the_examples_of_the_help() {
        let mut page = Vec::new();
        man(None, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.starts_with(".ie") || page.contains(".TH vault"), "{page}");
        assert!(page.contains("Examples"), "{page}");
    }

    #[test]
    fn each_shell_gets_a_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let mut script = Vec::new();
            completions(shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("doctor") && script.contains("header-value"), "{shell}");
        }
    }

    #[test]
    fn the_help_of_every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example"), "{}", command.get_name());
        }
    }
}
