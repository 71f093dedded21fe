//! What systemd is told about a daemon in the foreground (sd_notify(3)); nothing where nobody listens.

use sd_notify::NotifyState;

/// The mount answers.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What `systemctl status` shows.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The mount is gone, and the vault is being sealed.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("sealing")]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("the service manager was not told: {error}");
    }
}
