//! How the story is told: short lines, each with what was seen and how long it took.

use std::{
    env,
    future::Future,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Where the seconds stand.
const WIDTH: usize = 86;
/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Tells on stdout, or on stderr where stdout is for figures. Nobody listening is not an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story {
    fancy: bool,
    aside: bool,
    begun: Instant,
}

impl Story {
    /// On stdout; `fancy` with colour.
    pub(crate) fn new(fancy: bool) -> Self {
        Self { fancy, aside: false, begun: Instant::now() }
    }

    /// On stderr, without colour.
    pub(crate) fn aside() -> Self {
        Self { fancy: false, aside: true, begun: Instant::now() }
    }

    /// Whether who reads stdout sees colours and wants them.
    pub(crate) fn may_be_fancy() -> bool {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        io::stdout().is_terminal() && !unwanted
    }

    /// Seconds since the beginning.
    pub(crate) fn seconds(self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// A heading.
    pub(crate) fn chapter(self, title: &str) {
        self.print(&format!("\n{}", self.styled("1", title)));
    }

    /// Something to read, line by line.
    pub(crate) fn show(self, text: &str) {
        for line in text.lines() {
            self.print(&self.styled("2", format!("      {line}").trim_end()));
        }
    }

    /// Does or awaits something, and then says whether that was seen.
    pub(crate) async fn step<T>(
        self,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let result = work.await;
        let mark = if result.is_ok() { self.styled("32", "✓") } else { self.styled("31", "✗") };
        let room = WIDTH.saturating_sub(what.chars().count());
        let seconds = begun.elapsed().as_secs_f64();
        self.print(&format!("  {mark} {what}{:room$}{seconds:>6.1} s", ""));
        result
    }

    pub(crate) fn print(self, line: &str) {
        let _ = if self.aside {
            writeln!(io::stderr(), "{line}")
        } else {
            writeln!(io::stdout(), "{line}")
        };
    }

    fn styled(self, style: &str, text: &str) -> String {
        if self.fancy { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What one look saw: what is waited for, or what was there instead.
pub(crate) type Look<T> = Result<Result<T, String>>;

/// Looks again and again. A look that fails counts as one that saw its error.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Look<T>,
) -> Result<T> {
    let mut instead = "nothing".to_owned();
    let looking = async {
        loop {
            match look().await {
                Ok(Ok(seen)) => return seen,
                Ok(Err(other)) => instead = other,
                Err(error) => instead = error.story(),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(limit, looking).await {
        Ok(seen) => Ok(seen),
        Err(_) => Err(Error::NotSeen { what: what.to_owned(), seconds: limit.as_secs(), instead }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_seen_instead_is_told_when_the_time_is_over() {
        let limit = Duration::from_millis(120);
        let result: Result<()> = until("rain", limit, async || Ok(Err("sun".to_owned()))).await;
        let told = result.expect_err("it does not rain").to_string();
        assert!(told.contains("rain") && told.ends_with("sun"), "{told}");
    }

    #[tokio::test]
    async fn a_look_that_never_ends_does_not_hold_up_the_story() {
        let limit = Duration::from_millis(10);
        assert!(
            until("rain", limit, async || std::future::pending::<Look<()>>().await).await.is_err()
        );
    }
}
