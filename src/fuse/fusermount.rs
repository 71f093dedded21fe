//! Mounting as an ordinary user: the set-user-id program fusermount3 mounts, and hands the opened
//! `/dev/fuse` back over a socket (SCM_RIGHTS, unix(7)).

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use super::error::FuseError;
use super::mount::MountRequest;

/// The programs, the newer one first.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Names the descriptor on which fusermount3 answers.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// The program, without our environment: a key may stand there.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("LC_ALL", "C");
    command
}

/// Whether one of the programs is in the search path.
pub(super) fn is_installed() -> bool {
    program().is_some()
}

/// Whether ordinary users may give `allow_other`; also true when the configuration cannot be read, and
/// fusermount3 will say.
pub(super) fn allows_allow_other() -> bool {
    match fs::read_to_string("/etc/fuse.conf") {
        Ok(text) => text.lines().any(|line| line.trim() == "user_allow_other"),
        Err(_) => true,
    }
}

/// Mounts, and returns the opened `/dev/fuse`.
pub(super) fn mount(request: &MountRequest) -> Result<OwnedFd, FuseError> {
    let program = program().ok_or(FuseError::NoFusermount)?;
    let refused = |message: String| FuseError::Fusermount { mountpoint: request.mountpoint.clone(), message };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| refused(errno.to_string()))?;
    let mut command = command(program);
    command
        .arg("-o")
        .arg(option_list(request))
        .arg("--")
        .arg(&request.mountpoint)
        // The socket is its standard input: no other descriptor has to survive the exec.
        .env(SOCKET_VARIABLE, "0")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| refused(error.to_string()))?;
    // With it goes our copy of their end, so that a program that dies is seen as the end of the stream.
    drop(command);
    let device = receive_descriptor(&ours);
    let (succeeded, complaint) = finish(&mut child).map_err(|error| refused(error.to_string()))?;
    match device {
        Ok(Some(device)) if succeeded => Ok(device),
        Ok(_) if complaint.contains("user_allow_other") => Err(FuseError::AllowOtherForbidden),
        Ok(_) if complaint.is_empty() => Err(refused(format!("{program} gave no reason"))),
        Ok(_) => Err(refused(complaint)),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// Unmounts what the same user mounted; `lazily` detaches what is busy.
pub(super) fn unmount(mountpoint: &Path, lazily: bool) -> Result<(), FuseError> {
    let program = program().ok_or(FuseError::NoFusermount)?;
    let failed = |message: String| FuseError::Unmount { mountpoint: mountpoint.to_owned(), message };
    let mut command = command(program);
    command.arg("-u");
    if lazily {
        command.arg("-z");
    }
    let mut child = command
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (succeeded, complaint) = finish(&mut child).map_err(|error| failed(error.to_string()))?;
    if succeeded {
        Ok(())
    } else if complaint.contains("resource busy") {
        Err(FuseError::Busy { mountpoint: mountpoint.to_owned() })
    } else if complaint.contains("not found in") || complaint.contains("Invalid argument") {
        Err(FuseError::NotMounted { mountpoint: mountpoint.to_owned() })
    } else {
        Err(failed(complaint))
    }
}

/// As [`unmount`] lazily, without waiting for it.
pub(super) fn begin_detaching(mountpoint: &Path) -> Result<(), FuseError> {
    let program = program().ok_or(FuseError::NoFusermount)?;
    super::mount::begin(command(program).arg("-uz").arg("--").arg(mountpoint), mountpoint)
}

fn program() -> Option<&'static str> {
    let path = std::env::var_os("PATH")?;
    PROGRAMS.into_iter().find(|program| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// `-o`: commas and backslashes of the vault's path are escaped, as libfuse does it.
fn option_list(request: &MountRequest) -> OsString {
    let mut list = request.options.words().join(",").into_bytes();
    list.extend_from_slice(b",default_permissions,subtype=sero,fsname=");
    for &byte in request.source.as_os_str().as_bytes() {
        if matches!(byte, b',' | b'\\') {
            list.push(b'\\');
        }
        list.push(byte);
    }
    OsString::from_vec(list)
}

/// One message with one descriptor; `None` when the other side closed without sending one.
fn receive_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptor)
}

/// Waits for the program; what it wrote to its standard error, without its own name in front.
fn finish(child: &mut Child) -> io::Result<(bool, String)> {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.as_mut() {
        stderr.read_to_end(&mut text)?;
    }
    let status = child.wait()?;
    let text = String::from_utf8_lossy(&text);
    let complaint = text
        .lines()
        .map(|line| PROGRAMS.iter().find_map(|program| line.strip_prefix(program)?.strip_prefix(": ")).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("; ");
    Ok((status.success(), complaint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::options::MountOptions;

    #[test]
    fn commas_and_backslashes_are_escaped() {
        let request = MountRequest {
            source: Path::new("/srv/a,b\\c").to_owned(),
            mountpoint: Path::new("/mnt").to_owned(),
            options: MountOptions::default(),
        };
        assert_eq!(
            option_list(&request),
            OsString::from("rw,nosuid,nodev,default_permissions,subtype=sero,fsname=/srv/a\\,b\\\\c")
        );
    }

    #[test]
    fn a_descriptor_comes_over_the_socket_or_the_end_is_seen() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::io::IoSlice;
        use std::os::fd::AsFd;

        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let file = tempfile::tempfile().unwrap();
        let descriptors = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&theirs, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        assert!(receive_descriptor(&ours).unwrap().is_some());
        drop(theirs);
        assert!(receive_descriptor(&ours).unwrap().is_none());
    }
}
