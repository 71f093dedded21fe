//! The two ways to the kernel, `/dev/fuse` and io_uring: which one is taken, and many callers at once on each.

#[path = "cli/harness.rs"]
mod harness;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Fixture, can_mount, pattern, run};
use rustix::fs::SeekFrom;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
/// The kernel's parameter is for all: who looks at it must be alone.
static ALONE: Mutex<()> = Mutex::new(());
const OPTIONS: [&[&str]; 2] = [&[], &["-o", "no_io_uring"]];

/// Whether the kernel is one on which sero has FUSE over io_uring offered.
fn kernel_can() -> bool {
    let release = rustix::system::uname().release().to_str().unwrap().to_owned();
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    let cpus = |which| fs::read_to_string(format!("/sys/devices/system/cpu/{which}")).unwrap();
    numbers.as_slice() >= [6, 18].as_slice() && Path::new(PARAMETER).exists() && cpus("online") == cpus("possible")
}

fn rings(fixture: &Fixture) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", fixture.daemon().as_raw_nonzero())).unwrap();
    open.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().contains("[io_uring]"))
        .count()
}

#[test]
fn io_uring_is_used_where_linux_has_it_and_left_as_it_was() {
    can_mount();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let parameter = || fs::read_to_string(PARAMETER).ok();
    let before = parameter();
    for options in OPTIONS {
        let fixture = Fixture::mounted(options);
        assert_eq!(rings(&fixture) > 0, options.is_empty() && kernel_can(), "{options:?}");
        assert_eq!(parameter(), before, "the parameter of the kernel's module is as before");
        fs::write(fixture.mountpoint.join("file"), "content").unwrap();
        assert_eq!(fs::read(fixture.mountpoint.join("file")).unwrap(), b"content");
        fixture.seal().ok();
    }
}

/// More callers than there are threads that answer: each writes, and asks for data and holes before its pages are written
/// back, which another thread of the daemon answers, after the kernel's writes. Over io_uring so many at once may be told that
/// all of it is data.
#[test]
fn many_callers_at_once_are_all_answered() {
    can_mount();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for options in OPTIONS {
        let fixture = Fixture::mounted(options);
        let callers = 24;
        let barrier = Barrier::new(callers);
        thread::scope(|scope| {
            for caller in 0..callers {
                let (fixture, barrier) = (&fixture, &barrier);
                scope.spawn(move || {
                    let path = fixture.mountpoint.join(format!("file {caller}"));
                    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
                    barrier.wait();
                    for round in 0..20_u64 {
                        let at = (1 << 20) + round * (256 << 10);
                        file.write_all_at(&pattern(8192), at).unwrap();
                        let data = rustix::fs::seek(&file, SeekFrom::Data(at - 4096)).unwrap();
                        assert!(data == at || options.is_empty() && data == at - 4096, "{options:?}: {data} for {at}");
                        assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(at)).unwrap(), at + 8192, "{options:?}");
                    }
                    let large = pattern(3 << 20);
                    file.write_all_at(&large, 64 << 20).unwrap();
                    file.sync_all().unwrap();
                    drop(file);
                    assert!(same(&path, 64 << 20, &large));
                    fs::rename(&path, fixture.mountpoint.join(format!("moved {caller}"))).unwrap();
                });
            }
        });
        fixture.seal().ok();
        fixture.mount(options).ok();
        for caller in 0..callers {
            let path = fixture.mountpoint.join(format!("moved {caller}"));
            assert!(same(&path, 64 << 20, &pattern(3 << 20)) && same(&path, 1 << 20, &pattern(8192)), "{path:?}");
        }
        assert_eq!(fs::read_dir(&fixture.mountpoint).unwrap().count(), callers);
        fixture.seal().ok();
    }
}

/// The scheduler's policies that the daemon's threads have, proc_pid_stat(5).
fn policies(fixture: &Fixture) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", fixture.daemon().as_raw_nonzero())).unwrap();
    let stats = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.split(' ').nth(38).map(str::to_owned)).collect()
}

/// While one caller asks again and again, who answers may be of `SCHED_IDLE`, so that Linux leaves the caller on its CPU.
#[test]
fn who_answers_has_its_share_of_the_cpu_once_nobody_asks() {
    can_mount();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::mounted(&[]);
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(1) {
        for _ in 0..500 {
            number += 1;
            assert!(!fixture.mountpoint.join(format!("absent {number}")).exists());
        }
    }
    let started = Instant::now();
    while policies(&fixture).iter().any(|policy| policy != "0") {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", policies(&fixture));
        thread::sleep(Duration::from_millis(20));
    }
    fs::write(fixture.mountpoint.join("file"), "content").unwrap();
    fixture.seal().ok();
}

#[test]
fn the_daemon_stays_on_the_cpus_that_it_was_given() {
    can_mount();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::new();
    let mount = fixture.mount_command(&[]);
    let mut command = Command::new("taskset");
    run(command.args(["-c", "0"]).arg(mount.get_program()).args(mount.get_args())).ok();
    assert_eq!(rings(&fixture) > 0, kernel_can());
    // Small and large ones: threads may go elsewhere for these.
    for number in 0..100 {
        fs::write(fixture.mountpoint.join(format!("file {number}")), pattern(100_000)).unwrap();
    }
    let tasks = fs::read_dir(format!("/proc/{}/task", fixture.daemon().as_raw_nonzero())).unwrap();
    let status: Vec<_> =
        tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).collect();
    assert!(!status.is_empty());
    assert!(status.iter().all(|status| status.contains("Cpus_allowed_list:\t0\n")), "{status:#?}");
    fixture.seal().ok();
}

fn same(path: &Path, offset_bytes: u64, expected: &[u8]) -> bool {
    let mut found = vec![0; expected.len()];
    File::open(path).unwrap().read_exact_at(&mut found, offset_bytes).unwrap();
    found == expected
}
