//! Autobahn's test suite needs Python 2.7. This module finds one, and makes an environment with just the packages that
//! the suite needs.

use std::{
    env, fs,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::{
    interrupt::Interrupted,
    log::{last_lines, write_to},
    process,
    process::Process,
    run_folder::RunFolder,
    say::say,
    wait::wait_until,
};

/// The suite and its dependencies, each in the last version for Python 2.7.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// The last one that runs on Python 2.7; it also makes environments of 2.7 from Python 3.
const VIRTUALENV: &str = "virtualenv==20.15.1";
/// One package is compiled, which takes most of the time.
const SETUP_LIMIT: Duration = Duration::from_secs(120);
/// A whole run takes some minutes.
const LOCK_LIMIT: Duration = Duration::from_secs(600);
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// Prints name, version and path. A Python without ssl can neither install nor test TLS.
const PROBE: &str = "import platform, ssl, sys
assert sys.version_info[:2] == (2, 7)
sys.stdout.write('%s %s\\n%s' % (platform.python_implementation(), platform.python_version(), sys.executable))";

/// A Python with the suite. Other runs wait until this one needs neither the Python nor its reports.
pub(super) struct Environment {
    _lock: File,
    program: PathBuf,
    /// As in `CPython 2.7.18`.
    python: String,
}

impl Environment {
    /// Makes the environment in `folder`, unless it is there. All errors mean that this machine cannot run the suite.
    pub(super) fn prepare(folder: &Path, run: &RunFolder) -> anyhow::Result<Environment> {
        let (base, python) = find(run)?;
        let lock = lock(folder)?;
        let path = folder.join("python");
        let program = path.join("bin/python");
        let contents = format!("{python}\n{}\n{VIRTUALENV}\n{REQUIREMENTS}", base.display());
        let mark = path.join("contents");
        let environment = Environment { _lock: lock, program, python };
        if fs::read_to_string(&mark).is_ok_and(|found| found == contents) && environment.program.exists() {
            return Ok(environment);
        }
        say(format_args!("conformance: installing the test suite for {}, once", environment.python));
        let setup = Setup { folder, run, start: Instant::now() };
        if path.exists() {
            fs::remove_dir_all(&path).context("cannot remove the old environment")?;
        }
        setup.make(&base, &path)?;
        setup.install(&environment)?;
        // Last, so that a half-made environment is made again.
        fs::write(&mark, contents).context("cannot write into the environment")?;
        say(format_args!("conformance: installed in {:.1} s", setup.start.elapsed().as_secs_f64()));
        Ok(environment)
    }

    /// A command that runs this Python, without the caller's environment variables about other Pythons.
    pub(super) fn command(&self) -> Command {
        python(&self.program)
    }

    /// The versions that the verdicts depend on.
    pub(super) fn versions(&self) -> String {
        let version = |package: &str| {
            let mut versions = REQUIREMENTS.lines().filter_map(|line| line.split_once("=="));
            versions.find(|(name, _)| *name == package).map_or("?", |(_, version)| version)
        };
        format!(
            "autobahntestsuite {} on autobahn {}, {}",
            version("autobahntestsuite"),
            version("autobahn"),
            self.python
        )
    }
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let Some(()) = wait_until(LOCK_LIMIT, || Ok(lock.try_lock().is_ok().then_some(())))? else {
        bail!("{} stayed locked for {} s: is another run stuck?", path.display(), LOCK_LIMIT.as_secs());
    };
    Ok(lock)
}

fn python(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").stdin(Stdio::null());
    command
}

/// The first Python 2.7, as its program and its name.
fn find(run: &RunFolder) -> anyhow::Result<(PathBuf, String)> {
    if let Some(named) = env::var_os("STRAIT_PYTHON2") {
        let named = PathBuf::from(named);
        let found = probe(&named, run)?;
        return found.with_context(|| format!("STRAIT_PYTHON2={} is no Python 2.7 with ssl", named.display()));
    }
    for candidate in ["python2.7", "python2", "pypy", "pypy2"].iter().map(PathBuf::from).chain(pyenv()) {
        if let Some(found) = probe(&candidate, run)? {
            return Ok(found);
        }
    }
    bail!(
        "there is no Python 2.7 with ssl, neither as python2.7, python2 or pypy on PATH nor in pyenv; \
         install one, for example by `pyenv install 2.7.18`, or name one by STRAIT_PYTHON2"
    )
}

/// The Pythons that pyenv has installed, whichever it has chosen.
fn pyenv() -> Vec<PathBuf> {
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")));
    let versions = root.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let mut programs: Vec<_> = versions
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|version| {
            let name = version.file_name();
            let name = name.to_string_lossy();
            name.trim_start_matches("pypy").starts_with("2.7")
        })
        .map(|version| version.path().join("bin/python"))
        .collect();
    programs.sort();
    programs
}

/// `None` if the program is not there or is another Python.
fn probe(program: &Path, run: &RunFolder) -> anyhow::Result<Option<(PathBuf, String)>> {
    let mut command = python(program);
    command.args(["-c", PROBE]).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut process) = Process::start(command, "python", Signal::TERM, run) else {
        return Ok(None);
    };
    match process.wait(Some(PROBE_LIMIT)) {
        Ok(status) if status.success() => {}
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Ok(_) | Err(_) => return Ok(None),
    }
    let mut answer = String::new();
    process.take_stdout().context("the output is piped")?.read_to_string(&mut answer)?;
    Ok(answer.split_once('\n').map(|(python, program)| (PathBuf::from(program), python.to_owned())))
}

struct Setup<'a> {
    folder: &'a Path,
    run: &'a RunFolder,
    start: Instant,
}

impl Setup<'_> {
    /// Makes an empty environment. If a Python lacks pip, the machine's Python 3 makes it.
    fn make(&self, base: &Path, path: &Path) -> anyhow::Result<()> {
        let tools = self.folder.join("virtualenv");
        let mut refusals = Vec::new();
        for maker in [base, Path::new("python3")] {
            let mut pip = python(maker);
            pip.args(["-m", "pip", "install", "--quiet", "--upgrade", VIRTUALENV]).arg("--target").arg(&tools);
            let made = self.finish(pip, "pip").and_then(|()| {
                let mut virtualenv = python(maker);
                virtualenv.env("PYTHONPATH", &tools).args(["-m", "virtualenv", "--quiet"]);
                virtualenv.arg("--app-data").arg(tools.join("data")).arg("--python").arg(base).arg(path);
                self.finish(virtualenv, "virtualenv")
            });
            // Packages that one Python installed are not for another one.
            let _ = fs::remove_dir_all(&tools);
            match made {
                Ok(()) => return Ok(()),
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => refusals.push(format!("by {}: {error:#}", maker.display())),
            }
        }
        bail!("no environment can be made, {}", refusals.join(", "))
    }

    fn install(&self, environment: &Environment) -> anyhow::Result<()> {
        let list = self.run.path().join("requirements");
        fs::write(&list, REQUIREMENTS).context("cannot write into the run's folder")?;
        let mut pip = environment.command();
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--retries", "2", "--requirement"]).arg(&list);
        self.finish(pip, "pip").context("the test suite cannot be installed")
    }

    /// Runs within the rest of the limit.
    fn finish(&self, mut command: Command, name: &str) -> anyhow::Result<()> {
        let log = self.run.path().join(format!("{name}-log"));
        command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_NO_INPUT", "1");
        write_to(&mut command, &log)?;
        let left = SETUP_LIMIT.saturating_sub(self.start.elapsed());
        if process::run(command, name, Some(left), self.run)?.success() {
            return Ok(());
        }
        bail!("{name} failed: {}", last_lines(&log))
    }
}
