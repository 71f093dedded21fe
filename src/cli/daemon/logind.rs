//! What logind says (org.freedesktop.login1(5)): the machine is about to sleep, a session is being locked. Needs the feature
//! `logind`; without it, asking for this is an error.
//!
//! Before sleep logind waits for those who hold a delay lock, for `InhibitDelayMaxSec` at most (5 seconds, by default). One is
//! held for as long as the daemon lives: a vault that nobody uses is at rest before the machine sleeps, and the end of
//! the process is the end of the lock.
//!
//! A session counts as locked when logind asks for it (`loginctl lock-session`), or when the desktop says that it did it
//! itself (`LockedHint`). Only sessions of the daemon's own user matter; for root's daemons, everyone's.

use serde::{Deserialize, Serialize};

use crate::cli::failure::Result;

/// What a vault can be sealed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Cause {
    // No help of its own for each: it would make that of all options long.
    Suspend,
    Lock,
}

/// A cause begins: the machine is about to sleep; or ends: it woke up, the session is unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) cause: Cause,
    pub(super) begins: bool,
}

/// Fails if logind cannot be asked; to be called before anybody is asked for a passphrase.
pub(in crate::cli) fn check(causes: &[Cause]) -> Result<()> {
    if causes.is_empty() { Ok(()) } else { bus::check(causes) }
}

/// Tells of what happens from now on, in a thread of its own, for as long as this process lives.
pub(super) fn listen(causes: &[Cause], tell: impl Fn(News) + Send + 'static) -> Result<()> {
    if causes.is_empty() { Ok(()) } else { bus::listen(causes, tell) }
}

#[cfg(not(feature = "logind"))]
mod bus {
    use super::{Cause, News};
    use crate::cli::exit_code::ExitCode;
    use crate::cli::failure::{Failure, Result};

    fn missing() -> Failure {
        Failure::new(ExitCode::Usage, "this sero was built without the feature `logind`; leave --seal-on out")
    }

    pub(super) fn check(_: &[Cause]) -> Result<()> {
        Err(missing())
    }

    pub(super) fn listen(_: &[Cause], _: impl Fn(News) + Send + 'static) -> Result<()> {
        Err(missing())
    }
}

#[cfg(feature = "logind")]
mod bus {
    use std::collections::HashMap;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::process::geteuid;
    use zbus::export::futures_core::Stream;
    use zbus::message::{Message, Type};
    use zbus::{Connection, MatchRule, MessageStream, OwnedFd, Variant};

    use super::{Cause, News};
    use crate::cli::daemon::ticker::spawn;
    use crate::cli::failure::{Failure, Result};

    const NAME: &str = "org.freedesktop.login1";
    const PATH: &str = "/org/freedesktop/login1";
    const MANAGER: &str = "org.freedesktop.login1.Manager";
    const SESSION: &str = "org.freedesktop.login1.Session";
    const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

    /// When the bus was lost, it is tried again so often.
    const RETRY: Duration = Duration::from_secs(5);
    /// What does not answer for so long is not there.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Runs something of the bus in a thread of its own, so that it can be given up.
    fn within<T: Send + 'static>(work: impl FnOnce(mpsc::Sender<zbus::Result<T>>) + Send + 'static) -> Result<T> {
        let (sender, ready) = mpsc::channel();
        spawn("logind", move || work(sender));
        let unusable = |why: String| {
            Failure::other(format!("logind cannot be asked: {why}; see to it (`loginctl`), or leave --seal-on out"))
        };
        match ready.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome.map_err(|error| unusable(error.to_string())),
            Err(_) => Err(unusable("it does not answer".to_owned())),
        }
    }

    pub(super) fn check(causes: &[Cause]) -> Result<()> {
        let causes = causes.to_vec();
        within(move |done| {
            let outcome = zbus::block_on(async { Logind::connect(&causes).await.map(drop) });
            let _ = done.send(outcome);
        })
    }

    pub(super) fn listen(causes: &[Cause], tell: impl Fn(News) + Send + 'static) -> Result<()> {
        let causes = causes.to_vec();
        within(move |ready| {
            let mut ready = Some(ready);
            let mut is_lost = false;
            loop {
                let outcome = zbus::block_on(async {
                    let mut logind = Logind::connect(&causes).await?;
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    if is_lost {
                        log::info!("logind is heard again");
                        is_lost = false;
                    }
                    logind.listen(&tell).await
                });
                match (outcome, ready.take()) {
                    (Err(error), Some(ready)) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                    (outcome, _) if !is_lost => {
                        is_lost = true;
                        let why = outcome.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                        log::error!(
                            "the connection to logind is lost ({why}): the vault is not sealed on suspend or lock; trying again"
                        );
                    }
                    _ => {}
                }
                thread::sleep(RETRY);
            }
        })
    }

    struct Logind<'a> {
        causes: &'a [Cause],
        connection: Connection,
        messages: MessageStream,
        /// The delay lock: logind waits until it is closed.
        delay: Option<OwnedFd>,
    }

    impl<'a> Logind<'a> {
        async fn connect(causes: &'a [Cause]) -> zbus::Result<Self> {
            let connection = Connection::system().await?;
            // Starts it, where it is started by need.
            connection.call_method(Some(NAME), PATH, Some("org.freedesktop.DBus.Peer"), "Ping", &()).await?;
            let rule = MatchRule::builder().msg_type(Type::Signal).sender(NAME).path_namespace(PATH).build()?;
            let messages = MessageStream::for_match_rule(rule, &connection, None).await?;
            let mut this = Self { causes, connection, messages, delay: None };
            this.take_delay_lock().await?;
            Ok(this)
        }

        async fn take_delay_lock(&mut self) -> zbus::Result<()> {
            if self.causes.contains(&Cause::Suspend) {
                let body = ("sleep", "sero", "A vault is sealed before the machine sleeps", "delay");
                let reply = self.connection.call_method(Some(NAME), PATH, Some(MANAGER), "Inhibit", &body).await?;
                // The one before is closed.
                self.delay = Some(reply.body().deserialize()?);
            }
            Ok(())
        }

        /// Until the connection ends.
        async fn listen(&mut self, tell: &impl Fn(News)) -> zbus::Result<()> {
            while let Some(message) = poll_fn(|context| Pin::new(&mut self.messages).poll_next(context)).await {
                let message = message?;
                let Some(news) = self.news(&message).await? else { continue };
                if !self.causes.contains(&news.cause) {
                    continue;
                }
                tell(news);
                if news == (News { cause: Cause::Suspend, begins: false }) {
                    // It slept all the same: somebody used the vault. The next time is another.
                    self.take_delay_lock().await?;
                }
            }
            Ok(())
        }

        async fn news(&self, message: &Message) -> zbus::Result<Option<News>> {
            let header = message.header();
            let (Some(interface), Some(member), Some(path)) = (header.interface(), header.member(), header.path())
            else {
                return Ok(None);
            };
            let lock = |begins| Some(News { cause: Cause::Lock, begins });
            let body = message.body();
            let news = match (interface.as_str(), member.as_str()) {
                (MANAGER, "PrepareForSleep") => {
                    body.deserialize().ok().map(|begins| News { cause: Cause::Suspend, begins })
                }
                (SESSION, "Lock") => lock(true),
                (SESSION, "Unlock") => lock(false),
                (PROPERTIES, "PropertiesChanged") => match body.deserialize::<Changed<'_>>() {
                    Ok((SESSION, changed, _)) => match changed.get("LockedHint") {
                        Some(Variant::Bool(is_locked)) => lock(*is_locked),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            };
            // Anybody can send a signal to one connection alone.
            let is_genuine = match header.sender() {
                Some(sender) if news.is_some() => self.owner().await?.as_deref() == Some(sender.as_str()),
                _ => false,
            };
            Ok(match news {
                Some(news) if is_genuine && (news.cause == Cause::Suspend || self.is_ours(path.as_str()).await) => {
                    Some(news)
                }
                _ => None,
            })
        }

        /// Under which name logind sends.
        async fn owner(&self) -> zbus::Result<Option<String>> {
            let bus = "org.freedesktop.DBus";
            let asked =
                self.connection.call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "GetNameOwner", &NAME).await;
            match asked {
                Ok(reply) => reply.body().deserialize().map(Some),
                // It has just ended.
                Err(zbus::Error::MethodError(..) | zbus::Error::FDO(_)) => Ok(None),
                Err(error) => Err(error),
            }
        }

        /// Whether this session is the user's. One that has just ended is nobody's.
        async fn is_ours(&self, session: &str) -> bool {
            let me = geteuid();
            if me.is_root() {
                return true;
            }
            let asked =
                self.connection.call_method(Some(NAME), session, Some(PROPERTIES), "Get", &(SESSION, "User")).await;
            asked.is_ok_and(|reply| match reply.body().deserialize() {
                Ok(Variant::Structure(user)) => {
                    matches!(user.fields().first(), Some(Variant::U32(id)) if *id == me.as_raw())
                }
                _ => false,
            })
        }
    }

    /// Of the signal PropertiesChanged: the interface, what is new, what has to be asked for.
    type Changed<'a> = (&'a str, HashMap<&'a str, Variant<'a>>, Vec<&'a str>);
}
