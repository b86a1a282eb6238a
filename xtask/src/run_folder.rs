//! The temporary folder of one run. It is locked as long as the run lives: a later run can find the things that a
//! killed one left behind, and clear them away.

use std::{
    env, fs,
    fs::{DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};

use crate::{process, say::say};

/// Others hold the lock of the base folder while they clear away leftovers: seconds at most.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// A folder for this run; removed when dropped.
pub(crate) struct RunFolder {
    base: PathBuf,
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder, and removes those of runs that were killed together with the processes
    /// they left.
    pub(crate) fn create() -> anyhow::Result<RunFolder> {
        let user = rustix::process::geteuid().as_raw();
        let base = env::temp_dir().join(format!("strait-xtask-{user}"));
        let base_lock = lock_base(&base, user)?;
        sweep(&base);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = base.join(format!("{}-{}", std::process::id(), since_epoch.as_nanos()));
        make_folder(&path)?;
        make_folder(&path.join("processes"))?;
        let lock = File::create(path.join("lock")).context("cannot create the run's lock")?;
        lock.lock().context("cannot lock the run's folder")?;
        drop(base_lock);
        Ok(RunFolder { base, path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file that is locked for as long as the run lives.
    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.path.join("processes")
    }

    pub(crate) fn make(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        make_folder(&path)?;
        Ok(path)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let base_lock = lock_base(&self.base, rustix::process::geteuid().as_raw());
        remove(&self.path);
        // The base goes with its last run. Its lock's holder alone may remove the lock.
        if base_lock.is_ok() && runs(&self.base).is_empty() {
            let _ = fs::remove_file(self.base.join("lock"));
            let _ = fs::remove_dir(&self.base);
        }
    }
}

/// Readable by all: a database server refuses to run as root, so another user must get through.
fn make_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().mode(0o711).create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn lock_base(base: &Path, user: u32) -> anyhow::Result<File> {
    let path = base.join("lock");
    let start = Instant::now();
    loop {
        match DirBuilder::new().mode(0o711).create(base) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot create {}", base.display()));
            }
            _ => {}
        }
        // The name can be guessed: another user may have made it, as a link for example.
        if let Ok(found) = fs::symlink_metadata(base)
            && (!found.is_dir() || found.uid() != user)
        {
            bail!("{} is not a folder of ours: remove it, or set TMPDIR", base.display());
        }
        // The run before may be removing the folder at this moment: then it is made again.
        if let Ok(lock) = File::options().create(true).append(true).open(&path)
            && lock.try_lock().is_ok()
            && same_file(&lock, &path)
        {
            return Ok(lock);
        }
        if start.elapsed() > LOCK_LIMIT {
            bail!("{} stayed locked for {} s: is another run stuck?", path.display(), LOCK_LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn same_file(open: &File, path: &Path) -> bool {
    let (Ok(open), Ok(path)) = (open.metadata(), fs::metadata(path)) else {
        return false;
    };
    open.ino() == path.ino() && open.dev() == path.dev()
}

fn runs(base: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(base).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn sweep(base: &Path) {
    for run in runs(base) {
        if let Ok(lock) = File::open(run.join("lock"))
            && matches!(lock.try_lock(), Err(TryLockError::WouldBlock))
        {
            continue;
        }
        let records = fs::read_dir(run.join("processes")).into_iter().flatten().filter_map(Result::ok);
        for record in records {
            if let Some(process) = process::stop_recorded(&record.path()) {
                say(format_args!("stopped {process}, which a killed run had left"));
            }
        }
        remove(&run);
        say(format_args!("removed {}, which a killed run had left", run.display()));
    }
}

/// Removes a folder, but never through a mount inside it (building an image mounts `/proc` there).
fn remove(folder: &Path) {
    for mount in mounts_below(folder) {
        let _ = Command::new("umount").arg(&mount).status();
    }
    if !mounts_below(folder).is_empty() {
        say(format_args!("left {}: something is mounted in it", folder.display()));
        return;
    }
    let start = Instant::now();
    // A server that is ending may add a file meanwhile.
    while let Err(error) = fs::remove_dir_all(folder) {
        if error.kind() == io::ErrorKind::NotFound {
            return;
        }
        if start.elapsed() > Duration::from_secs(2) {
            say(format_args!("cannot remove {}: {error}", folder.display()));
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Innermost first. The table escapes blanks, and no name of ours has any.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    below.reverse();
    below
}
