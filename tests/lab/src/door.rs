//! A port that closes and opens on a wish: the accept loop of the fronts whose clients are to meet a
//! refused connection.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The running loop. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Door<W> {
    wanted: watch::Sender<W>,
    is_open: fn(&W) -> bool,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl<W: Send + Sync + 'static> Door<W> {
    /// Listens on a port that is the lab's own. Each connection has a task of its own, which sees what is
    /// wished: at first this, by which the port is open.
    pub(crate) async fn open<T>(
        address: SocketAddr,
        wish: W,
        is_open: fn(&W) -> bool,
        talk: impl Fn(TcpStream, watch::Receiver<W>) -> T + Send + 'static,
    ) -> std::io::Result<Self>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await?;
        let (wanted, wish) = watch::channel(wish);
        let (report, listening) = watch::channel(true);
        let task = tokio::spawn(serve(listener, address, wish, is_open, report, talk));
        Ok(Self { wanted, is_open, listening, task })
    }

    /// Changes what is wished. Returns when the port is open or closed as that has it.
    pub(crate) async fn wish(&self, change: impl FnOnce(&mut W)) {
        self.wanted.send_modify(change);
        let open = (self.is_open)(&self.wanted.borrow());
        // An error means that the task is gone, and with it the port.
        let _ = self.listening.clone().wait_for(|listening| *listening == open).await;
    }
}

impl<W> Drop for Door<W> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections while that is wished, and binds the port anew afterwards.
async fn serve<W, T>(
    listener: TcpListener,
    address: SocketAddr,
    mut wish: watch::Receiver<W>,
    is_open: fn(&W) -> bool,
    report: watch::Sender<bool>,
    talk: impl Fn(TcpStream, watch::Receiver<W>) -> T,
) where
    T: Future<Output = ()> + Send + 'static,
{
    let mut listener = Some(listener);
    loop {
        let open = is_open(&wish.borrow_and_update());
        match (&listener, open) {
            (Some(_), false) => listener = None,
            (None, true) => match TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                // It comes free in a moment.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            _ => {}
        }
        report.send_replace(open);
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wish.changed() => if changed.is_err() { return },
            connection = next => if let Some((stream, _)) = connection {
                tokio::spawn(talk(stream, wish.clone()));
            },
        }
    }
}
