//! Data sets from the Hugging Face hub, as files in a folder.
//!
//! ```text
//! what is there (the hub's parquet export, else the repository's own files) -> HEAD each -> GET what is missing
//! ```
//!
//! A file is downloaded beside its place as `NAME.part` and renamed when its size and, where the hub tells it, its
//! SHA-256 are right. What a broken connection or a stopped process leaves is continued. `source.json` in the folder says
//! where every file comes from; by it files that are complete are known again, without the net if need be.
//!
//! The environment is that of the `huggingface_hub` library: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`,
//! `HF_HUB_OFFLINE`, and `HTTPS_PROXY`, `NO_PROXY` and `SSL_CERT_FILE` as elsewhere. The token goes to the hub's own host
//! only, never to where it redirects.
//!
//! A hub that cannot be reached is an error of kind [`Kind::Data`], as is a data file that cannot be read: the data is not
//! to be had. [`Kind::Disk`] stays for what is wrong on this side, [`Kind::Usage`] for what was asked or set wrongly.
//!
//! What is in the files is read by `data`, not here.

use crate::disk;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Request as HttpRequest, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

/// The file that says where the files of a folder come from.
pub const SOURCE: &str = "source.json";

const ENDPOINT: &str = "https://huggingface.co";
/// Tries in a row that bring nothing before we give up.
const TRIES: u32 = 6;
/// The longest wait that a hub may ask for.
const PATIENCE: Duration = Duration::from_secs(300);
/// Silence after which a connection counts as broken.
const SILENCE: Duration = Duration::from_secs(60);
/// Pages of a file list, of 1000 files each.
const PAGES: usize = 100;
/// What an answer in JSON may be long.
const ANSWER: u64 = 64 << 20;

/// What to fetch.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The data set: `owner/name`, or `name` for the few without an owner.
    pub id: String,
    /// The configuration (subset); none where there is only one, or one named `default`.
    pub config: Option<String>,
    /// A commit, branch or tag, of which the repository's own files are taken; none for the newest, as parquet.
    pub revision: Option<String>,
    /// The splits, such as `train`; none for all.
    pub splits: Vec<String>,
}

/// What lies in the folder now.
#[derive(Debug)]
pub struct Fetched {
    /// The files of the splits that were asked for, in order.
    pub files: Vec<PathBuf>,
    /// What `source.json` says.
    pub source: Source,
    /// How many bytes came over the net for it.
    pub downloaded: u64,
}

/// The content of `source.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The data set.
    pub id: String,
    /// Its configuration.
    pub config: Option<String>,
    /// The commit of the data set's repository.
    pub revision: String,
    /// What was asked for where that was not the newest.
    pub requested: Option<String>,
    /// The hub.
    pub endpoint: String,
    /// The licences that the data set names.
    pub license: Vec<String>,
    /// All splits of the configuration, fetched or not.
    pub splits: Vec<String>,
    /// The files.
    pub files: Vec<SourceFile>,
}

/// One file in `source.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name in the folder.
    pub name: String,
    /// The split that it is part of.
    pub split: String,
    /// Where it was fetched from.
    pub url: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its content.
    pub sha256: String,
    /// The hub's name for this content.
    pub etag: Option<String>,
    /// The commit it is of; the parquet export has commits of its own.
    pub commit: Option<String>,
}

/// Called with bytes done and bytes in all, both 0 while that is not known. An error ends the fetching; what is there
/// stays and is continued by the next call.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// Fetches a data set into `folder` from the hub that the environment names. See [`Hub::fetch`].
pub fn fetch(request: &Request, folder: &Path, progress: Progress) -> Result<Fetched> {
    Hub::from_env()?.fetch(request, folder, progress)
}

/// A hub and how to talk to it.
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    offline: bool,
    agent: Agent,
    /// The first wait before trying again; later ones are longer.
    pause: Duration,
}

/// What the environment says about the hub.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    endpoint: String,
    token: Option<String>,
    offline: bool,
    roots: Option<PathBuf>,
}

impl Settings {
    fn read(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let set = |name| var(name).filter(|value| !value.is_empty());
        let text = |name| -> Result<Option<String>> {
            let text = set(name).map(OsString::into_string).transpose();
            text.map_err(|_| Error::usage(format!("the environment variable {name} is not UTF-8")))
        };
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::usage(format!("HF_ENDPOINT is {endpoint:?}; a URL was expected"))
                .fix(format!("unset it, or set it as in {ENDPOINT}")));
        }
        let home = || {
            let cache = || {
                let home = || set("HOME").map(|home| PathBuf::from(home).join(".cache"));
                set("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)
            };
            set("HF_HOME").map(PathBuf::from).or_else(|| cache().map(|cache| cache.join("huggingface")))
        };
        let mut token = text("HF_TOKEN")?;
        if token.is_none()
            && let Some(path) =
                set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| home().map(|home| home.join("token")))
        {
            token = match fs::read_to_string(&path) {
                Ok(token) => Some(token),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(Error::io(Kind::Usage, "read the token in", &path, &e)),
            };
        }
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::usage("the token for the hub has characters that no token has")
                .fix(format!("copy it again from {endpoint}/settings/tokens to HF_TOKEN")));
        }
        let offline = text("HF_HUB_OFFLINE")?;
        let offline = offline
            .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.trim().to_lowercase().as_str()));
        let roots = set("SSL_CERT_FILE").or_else(|| set("REQUESTS_CA_BUNDLE")).map(PathBuf::from);
        Ok(Self { endpoint, token, offline, roots })
    }
}

impl Hub {
    /// The hub of the environment.
    pub fn from_env() -> Result<Self> {
        let settings = Settings::read(|name| std::env::var_os(name))?;
        Self::new(settings, Proxy::try_from_env(), Duration::from_millis(500))
    }

    fn new(settings: Settings, proxy: Option<Proxy>, pause: Duration) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.roots {
            let pem =
                fs::read(path).map_err(|e| Error::io(Kind::Usage, "read the certificates in", path, &e))?;
            let certificate = |item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            };
            let roots: Vec<Certificate> = parse_pem(&pem).filter_map(certificate).collect();
            if roots.is_empty() {
                return Err(Error::usage(format!("{} holds no certificates (PEM)", path.display()))
                    .fix("unset SSL_CERT_FILE, or name a file with them"));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&roots));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .proxy(proxy)
            .http_status_as_error(false)
            // We follow them ourselves: what the hub says on the way counts, and the token stays with it.
            .max_redirects(0)
            .user_agent(concat!("flanrt/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(SILENCE / 2))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .build()
            .new_agent();
        let Settings { endpoint, token, offline, .. } = settings;
        Ok(Self { endpoint, token, offline, agent, pause })
    }

    /// Fetches a data set into `folder`, where its files become `SPLIT-00000-of-0000N.parquet` (or `.jsonl`, `.csv`),
    /// beside `source.json`. Files that are complete and still what the hub has are left as they are.
    ///
    /// Errors: no such data set, configuration, split or revision; not allowed to have it; the hub out of reach or
    /// offline; a file that is not what the hub said; a folder that holds another data set or files of somebody else.
    pub fn fetch(&self, request: &Request, folder: &Path, progress: Progress) -> Result<Fetched> {
        check(request)?;
        let old = old_source(folder, request)?;
        if self.offline {
            return self.without_net(request, folder, old);
        }
        disk::ensure_can_write_dir(folder)?;
        Job { hub: self, request, folder, progress, done: 0, total: 0, downloaded: 0, configs: Vec::new() }
            .run(old)
    }

    fn without_net(&self, request: &Request, folder: &Path, old: Option<Source>) -> Result<Fetched> {
        let refuse = |what: String| {
            Err(Error::usage(format!("cannot fetch {}: HF_HUB_OFFLINE is set, and {what}", request.id))
                .fix("unset HF_HUB_OFFLINE, or fetch the data set where there is a net and copy the folder"))
        };
        let Some(source) = old else {
            return refuse(format!("{} does not hold it yet", folder.display()));
        };
        let revision = request.revision.as_ref();
        if revision.is_some_and(|r| *r != source.revision && Some(r) != source.requested.as_ref()) {
            return refuse(format!("{} holds revision {}", folder.display(), source.revision));
        }
        let splits = if request.splits.is_empty() { &source.splits } else { &request.splits };
        for split in splits {
            let mut files = source.files.iter().filter(|file| file.split == *split);
            let all = files.clone().count();
            if all == 0 || !files.all(|file| is_there(folder, file) && shards(&file.name) == Some(all)) {
                return refuse(format!("{} does not hold all of the split {split:?}", folder.display()));
            }
        }
        let wanted = |file: &&SourceFile| splits.contains(&file.split);
        let files = source.files.iter().filter(wanted).map(|file| folder.join(&file.name)).collect();
        Ok(Fetched { files, source, downloaded: 0 })
    }

    /// Whether the token may go to this URL.
    fn is_home(&self, url: &str) -> bool {
        origin(url).eq_ignore_ascii_case(origin(&self.endpoint))
    }

    fn page(&self, id: &str) -> String {
        format!("{}/datasets/{id}", self.endpoint)
    }

    /// One request, with its redirects. A HEAD is not taken further than the hub's own host.
    fn send(&self, method: &str, url: &str, headers: &[(&str, String)]) -> Result<Reply, Trouble> {
        let (mut at, mut meta) = (url.to_owned(), Meta::default());
        for _ in 0..10 {
            let home = self.is_home(&at);
            let mut request = HttpRequest::builder().method(method).uri(&at);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request =
                request.body(()).map_err(|e| Trouble::bad(url, &format!("not a valid URL: {e}")))?;
            let response = self.agent.run(request).map_err(|e| Trouble::of(url, e))?;
            let (status, headers) = (response.status().as_u16(), response.headers());
            if home {
                meta.take(headers);
            }
            match (status, header(headers, "location")) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    let next = join(&at, location);
                    if method == "HEAD" && !self.is_home(&next) {
                        return Ok(Reply { status: 200, meta, response });
                    }
                    if at.starts_with("https://") && !next.starts_with("https://") {
                        return Err(Trouble::bad(url, "redirected to a connection that is not encrypted"));
                    }
                    at = next;
                }
                _ => {
                    if home && status == 200 {
                        meta.etag = meta.etag.or_else(|| header(headers, "etag").map(unquote));
                        meta.size = meta.size.or_else(|| number(headers, "content-length"));
                    }
                    return Ok(Reply { status, meta, response });
                }
            }
        }
        Err(Trouble::bad(url, "redirected without end"))
    }

    /// The error that a status means.
    fn refused(&self, id: &str, url: &str, reply: Reply) -> Error {
        let Reply { status, mut response, .. } = reply;
        let code = header(response.headers(), "x-error-code").unwrap_or_default().to_owned();
        let mut said = header(response.headers(), "x-error-message").unwrap_or_default().to_owned();
        if said.is_empty() {
            let body = response.body_mut().with_config().limit(1 << 16).read_to_vec().unwrap_or_default();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            said = body["error"].as_str().unwrap_or_default().to_owned();
        }
        let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
        let said = if said.is_empty() { said } else { format!(" (the hub says: {said})") };
        let (page, endpoint) = (self.page(id), &self.endpoint);
        let token = match self.token {
            Some(_) => "the token in HF_TOKEN must be of an account that may read it",
            None => "set HF_TOKEN to a token of an account that may read it",
        };
        let gated = status == 403 || code == "GatedRepo";
        let (what, fix) = match status {
            401 | 403 if gated => (
                format!("{id} is gated: its terms must be accepted before it can be read"),
                format!("accept the terms at {page}; {token} (from {endpoint}/settings/tokens)"),
            ),
            401 if self.token.is_some() => (
                format!("the hub does not know the token that was sent for {id}"),
                format!("make a new token at {endpoint}/settings/tokens and set HF_TOKEN to it"),
            ),
            401 => (
                format!("there is no data set {id}, or it is private or gated"),
                format!("check the name at {page}; if it is right, accept its terms there and {token}"),
            ),
            404 if code == "RevisionNotFound" => (
                format!("{id} has no such revision"),
                format!("choose a commit, branch or tag at {page}/tree/main"),
            ),
            404 => (format!("not found: {url}"), format!("check the name at {page}")),
            429 => (format!("{url}: too many requests"), format!("start again later; {token}")),
            _ => (format!("cannot fetch {url}"), "start again later to go on from here".into()),
        };
        Error::data(format!("HTTP status {status}: {what}{said}")).fix(fix)
    }
}

/// What the hub tells of a file.
#[derive(Clone, Debug, Default)]
struct Meta {
    etag: Option<String>,
    size: Option<u64>,
    /// Known of large files, whose etag it is.
    sha256: Option<String>,
    commit: Option<String>,
}

impl Meta {
    /// Takes what the headers say, where nothing better is known.
    fn take(&mut self, headers: &HeaderMap) {
        self.commit = self.commit.take().or_else(|| header(headers, "x-repo-commit").map(str::to_owned));
        self.size = self.size.or_else(|| number(headers, "x-linked-size"));
        if let Some(etag) = header(headers, "x-linked-etag").map(unquote) {
            if etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()) {
                self.sha256 = Some(etag.to_lowercase());
            }
            self.etag = Some(etag);
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            etag: self.etag.or(other.etag),
            size: self.size.or(other.size),
            sha256: self.sha256.or(other.sha256),
            commit: self.commit.or(other.commit),
        }
    }
}

struct Reply {
    status: u16,
    meta: Meta,
    response: Response<Body>,
}

impl Reply {
    /// Whether another try may bring more, and after which time the hub says so.
    fn busy(&self) -> Option<Option<Duration>> {
        let wait = header(self.response.headers(), "retry-after").and_then(|wait| wait.trim().parse().ok());
        matches!(self.status, 408 | 429 | 500..=599).then(|| wait.map(Duration::from_secs))
    }
}

/// Why a request failed.
enum Trouble {
    /// Trying again may help, after a time where the hub gave one.
    Again(String, Option<Duration>),
    /// It will not.
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Final(e)
    }
}

impl Trouble {
    fn bad(url: &str, what: &str) -> Self {
        Self::Final(Error::data(format!("cannot fetch {url}: {what}")).fix("check HF_ENDPOINT and the proxy"))
    }

    fn of(url: &str, e: ureq::Error) -> Self {
        match e {
            // What TLS does not like comes in either form.
            ureq::Error::Io(_) | ureq::Error::Rustls(_) if e.to_string().contains("certificate") => {
                Self::Final(
                    Error::data(format!("cannot fetch {url}: {e}")).fix(
                        "behind a proxy that reads along, set SSL_CERT_FILE to a file with its certificate",
                    ),
                )
            }
            ureq::Error::Io(e) => Self::Again(e.to_string(), None),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                Self::bad(url, &e.to_string())
            }
            e => Self::Again(e.to_string(), None),
        }
    }
}

/// A file of the data set as it was listed.
#[derive(Clone, Debug)]
struct Listed {
    split: String,
    url: String,
    /// `parquet`, `jsonl.gz`, ...
    extension: String,
}

/// A file to have, and what the hub tells of it.
struct Item {
    name: String,
    listed: Listed,
    meta: Meta,
}

/// One call of [`Hub::fetch`].
struct Job<'a> {
    hub: &'a Hub,
    request: &'a Request,
    folder: &'a Path,
    progress: Progress<'a>,
    /// Bytes of the files that are finished, and of all where known.
    done: u64,
    total: u64,
    downloaded: u64,
    /// The configurations that there are, known where the one that was asked for is not among them.
    configs: Vec<String>,
}

impl Job<'_> {
    fn run(mut self, old: Option<Source>) -> Result<Fetched> {
        let id = &self.request.id;
        (self.progress)(0, 0)?;
        let path = match &self.request.revision {
            None => format!("/api/datasets/{id}"),
            Some(revision) => format!("/api/datasets/{id}/revision/{}", encode(revision)),
        };
        let (info, _) = self.json(&format!("{}{path}", self.hub.endpoint))?;
        let Some(sha) = info["sha"].as_str() else {
            return Err(Error::data(format!("the hub's answer about {id} names no commit"))
                .fix("check HF_ENDPOINT: is it a hub?"));
        };
        let (config, mut listed) = match self.exported()? {
            Some(found) => found,
            None => (self.request.config.clone(), self.repository(sha)?),
        };
        let mut splits: Vec<String> = Vec::new();
        for file in &listed {
            if !splits.contains(&file.split) {
                splits.push(file.split.clone());
            }
        }
        let wanted = &self.request.splits;
        if let Some(split) = wanted.iter().find(|split| !splits.contains(split)) {
            return Err(Error::data(format!("{id} has no split {split:?}"))
                .fix(format!("it has {}", splits.join(", "))));
        }
        listed.retain(|file| wanted.is_empty() || wanted.contains(&file.split));

        let mut source = Source {
            id: id.clone(),
            config,
            revision: sha.to_owned(),
            requested: self.request.revision.clone(),
            endpoint: self.hub.endpoint.clone(),
            license: licenses(&info),
            splits,
            files: old.map_or_else(Vec::new, |old| old.files),
        };
        let items = self.probe(&listed, &source.files)?;
        disk::ensure_writable_dir(self.folder)?;
        let missing: Vec<bool> = items.iter().map(|item| !self.has(item, &source.files)).collect();
        self.total = items.iter().filter_map(|item| item.meta.size).sum();
        let needed = items.iter().zip(&missing).filter(|(_, missing)| **missing);
        let needed = needed.map(|(item, _)| {
            let part = fs::metadata(self.part(item)).map_or(0, |m| m.len());
            item.meta.size.unwrap_or(0).saturating_sub(part)
        });
        disk::ensure_space(self.folder, needed.sum())
            .map_err(|e| e.fix("free disk space, or choose another folder"))?;
        for (item, missing) in items.iter().zip(missing) {
            if missing {
                self.download(item, &mut source)?;
            } else {
                self.done += item.meta.size.unwrap_or(0);
            }
            (self.progress)(self.done, self.total)?;
        }
        self.tidy(&items, &mut source)?;
        let files = items.iter().map(|item| self.folder.join(&item.name)).collect();
        Ok(Fetched { files, source, downloaded: self.downloaded })
    }

    /// Removes files of these splits that are no longer part of the data set, and puts the list in order.
    fn tidy(&mut self, items: &[Item], source: &mut Source) -> Result<()> {
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for file in std::mem::take(&mut source.files) {
            let ours = items.iter().any(|item| item.name == file.name);
            let stale = !ours && items.iter().any(|item| item.listed.split == file.split);
            if stale { &mut gone } else { &mut kept }.push(file);
        }
        source.files = kept;
        let place = |file: &SourceFile| items.iter().position(|item| item.name == file.name);
        source.files.sort_by_cached_key(|file| (place(file).is_none(), place(file), file.name.clone()));
        for file in gone {
            let path = self.folder.join(&file.name);
            if path.is_file() {
                fs::remove_file(&path).map_err(|e| Error::io(Kind::Disk, "remove", &path, &e))?;
            }
        }
        self.write(source)
    }

    fn write(&self, source: &Source) -> Result<()> {
        let mut text = serde_json::to_string_pretty(source)
            .map_err(|e| Error::internal(format!("cannot write {SOURCE}: {e}")))?;
        text.push('\n');
        disk::write_atomic(&self.folder.join(SOURCE), text.as_bytes())
    }

    fn part(&self, item: &Item) -> PathBuf {
        self.folder.join(format!("{}.part", item.name))
    }

    /// Whether the folder already holds what the hub has.
    fn has(&self, item: &Item, files: &[SourceFile]) -> bool {
        let same = |file: &&SourceFile| {
            file.name == item.name
                && match (&item.meta.sha256, &item.meta.etag) {
                    (Some(sha256), _) => file.sha256 == *sha256,
                    (None, Some(etag)) => file.etag.as_ref() == Some(etag),
                    (None, None) => false,
                }
        };
        files.iter().find(same).is_some_and(|file| is_there(self.folder, file))
    }

    /// Waits before the next try, or gives up.
    fn wait(&mut self, url: &str, tries: u32, what: &str, asked: Option<Duration>) -> Result<()> {
        let failed = |what: &str| Error::data(format!("cannot fetch {url}: {what}"));
        if tries >= TRIES {
            return Err(failed(&format!("{what} (tried {tries} times)"))
                .fix("check the net and the proxy (HTTPS_PROXY); start again to go on from here"));
        }
        let wait = asked.unwrap_or(self.hub.pause * 2u32.pow(tries.saturating_sub(1)));
        if wait > PATIENCE {
            return Err(failed(&format!("{what}; the hub asks to come back in {} s", wait.as_secs()))
                .fix("start again then to go on from here; a token in HF_TOKEN raises the limit"));
        }
        let until = Instant::now() + wait;
        loop {
            (self.progress)(self.done, self.total)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// [`Hub::send`] until there is an answer that another try would not better.
    fn send(&mut self, method: &str, url: &str) -> Result<Reply> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.hub.send(method, url, &[]) {
                Ok(reply) => match reply.busy() {
                    Some(asked) if tries < TRIES => {
                        self.wait(url, tries, &format!("HTTP status {}", reply.status), asked)?;
                    }
                    _ => return Ok(reply),
                },
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Again(what, asked)) => self.wait(url, tries, &what, asked)?,
            }
        }
    }

    /// An answer in JSON, and where the next page of it is.
    fn json(&mut self, url: &str) -> Result<(Value, Option<String>)> {
        let mut tries = 0;
        loop {
            let mut reply = self.send("GET", url)?;
            if reply.status != 200 {
                return Err(self.hub.refused(&self.request.id, url, reply));
            }
            let next = header(reply.response.headers(), "link").and_then(next_page).map(|to| join(url, &to));
            match reply.response.body_mut().with_config().limit(ANSWER).read_to_vec() {
                Ok(bytes) => {
                    let value = serde_json::from_slice(&bytes).map_err(|e| {
                        Error::data(format!("{url}: the answer is not valid JSON: {e}"))
                            .fix("check HF_ENDPOINT and the proxy: is it a hub that answers?")
                    })?;
                    return Ok((value, next));
                }
                Err(e) => {
                    tries += 1;
                    self.wait(url, tries, &e.to_string(), None)?;
                }
            }
        }
    }

    /// The hub's parquet export of the newest revision: the configuration and its files. None where there is none.
    fn exported(&mut self) -> Result<Option<(Option<String>, Vec<Listed>)>> {
        if self.request.revision.is_some() {
            return Ok(None);
        }
        let id = &self.request.id;
        let mut url = format!("{}/api/datasets/{id}/parquet", self.hub.endpoint);
        if let Some(config) = &self.request.config {
            url = format!("{url}/{}", encode(config));
        }
        let reply = self.send("HEAD", &url)?;
        if matches!(reply.status, 401 | 403 | 429) {
            return Err(self.hub.refused(id, &url, reply));
        }
        // 405: a hub that answers no HEAD here. Others, 500 among them, say that the export was not or cannot be made.
        if !matches!(reply.status, 200 | 405) {
            if let Some((all, _)) = url.rsplit_once('/').filter(|_| self.request.config.is_some())
                && let Ok((answer, _)) = self.json(all)
            {
                self.configs = answer.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect();
            }
            return Ok(None);
        }
        let (mut answer, _) = self.json(&url)?;
        let odd = || Error::data(format!("{url}: the hub's list of files is not of a known form"));
        // Splits with their files, or configurations with their splits.
        let mut config = self.request.config.clone();
        if let Some(map) = answer.as_object_mut()
            && map.values().any(Value::is_object)
        {
            let name = match &config {
                Some(name) => name.clone(),
                None if map.len() == 1 => map.keys().next().cloned().unwrap_or_default(),
                None => "default".into(),
            };
            let Some(splits) = map.remove(&name) else {
                let there: Vec<&str> = map.keys().map(String::as_str).collect();
                let what = match &config {
                    Some(name) => format!("{id} has no configuration {name:?}"),
                    None => format!("{id} has {} configurations; name one", there.len()),
                };
                return Err(Error::data(what).fix(format!("it has {}", there.join(", "))));
            };
            answer = splits;
            config = Some(name);
        }
        let mut listed = Vec::new();
        for (split, urls) in answer.as_object().ok_or_else(odd)? {
            for url in urls.as_array().ok_or_else(odd)? {
                let url = url.as_str().ok_or_else(odd)?;
                // Mirrors pass on the list of the original.
                let url = match url.strip_prefix(ENDPOINT).filter(|rest| rest.starts_with('/')) {
                    Some(rest) => format!("{}{rest}", self.hub.endpoint),
                    None => join(&self.hub.endpoint, url),
                };
                listed.push(Listed { split: split.clone(), url, extension: "parquet".into() });
            }
        }
        Ok(if listed.is_empty() { None } else { Some((config, listed)) })
    }

    /// Data files of the repository itself.
    fn repository(&mut self, sha: &str) -> Result<Vec<Listed>> {
        let id = self.request.id.clone();
        let named = self.request.config.as_ref().filter(|config| *config != "default");
        let folders = match named {
            Some(config) => vec![config.clone(), format!("data/{config}")],
            None => vec!["data".to_owned(), String::new()],
        };
        for folder in &folders {
            let paths = self.tree(&id, sha, folder)?;
            let listed = choose(folder, &paths);
            if !listed.is_empty() {
                let url = |path: &str| {
                    format!("{}/resolve/{}/{}", self.hub.page(&id), encode(sha), encode_path(path))
                };
                return Ok(listed
                    .into_iter()
                    .map(|(split, path, extension)| Listed { split, url: url(&path), extension })
                    .collect());
            }
        }
        let place =
            |folder: &String| if folder.is_empty() { "its root".into() } else { format!("{folder}/") };
        let places: Vec<String> = folders.iter().map(place).collect();
        if let Some(config) = named.filter(|_| !self.configs.is_empty()) {
            return Err(Error::data(format!("{id} has no configuration {config:?}"))
                .fix(format!("it has {}", self.configs.join(", "))));
        }
        let what = format!("{id} has no parquet export, and no data files in {}", places.join(" or "));
        Err(Error::data(what).fix(format!(
            "look at {}/tree/main, name a configuration, or download its files by hand",
            self.hub.page(&id)
        )))
    }

    /// The paths of all files in a folder of the repository; the root without its folders. None where there is none.
    fn tree(&mut self, id: &str, sha: &str, folder: &str) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        let mut url = format!("{}/api/datasets/{id}/tree/{}", self.hub.endpoint, encode(sha));
        if !folder.is_empty() {
            url = format!("{url}/{}?recursive=true", encode_path(folder));
        }
        let reply = self.send("HEAD", &url)?;
        if reply.status == 404 {
            return Ok(paths);
        }
        for _ in 0..PAGES {
            let (answer, next) = self.json(&url)?;
            let files = answer.as_array().into_iter().flatten().filter(|entry| entry["type"] == "file");
            paths.extend(files.filter_map(|entry| entry["path"].as_str().map(str::to_owned)));
            match next {
                Some(next) => url = next,
                None => return Ok(paths),
            }
        }
        Err(Error::data(format!("{id} has more files than we look through ({PAGES}000)"))
            .fix("download its files by hand"))
    }

    /// Names the files and asks the hub about each.
    fn probe(&mut self, listed: &[Listed], files: &[SourceFile]) -> Result<Vec<Item>> {
        let id = &self.request.id;
        let mut items: Vec<Item> = Vec::new();
        for file in listed {
            let (split, extension) = (&file.split, &file.extension);
            if !is_name(split) {
                return Err(Error::data(format!("{id}: the hub names a split {split:?}, which is no name")));
            }
            let n = items.iter().filter(|item| item.listed.split == *split).count();
            let of = listed.iter().filter(|other| other.split == *split).count();
            let name = format!("{split}-{n:05}-of-{of:05}.{extension}");
            if self.folder.join(&name).exists() && !files.iter().any(|file| file.name == name) {
                let path = self.folder.join(&name);
                return Err(Error::disk(format!(
                    "{} was not fetched from the hub by flanrt",
                    path.display()
                ))
                .fix("move it away, or choose another folder"));
            }
            let reply = self.send("HEAD", &file.url)?;
            let meta = match reply.status {
                200 => reply.meta,
                405 | 501 => Meta::default(),
                _ => return Err(self.hub.refused(id, &file.url, reply)),
            };
            items.push(Item { name, listed: file.clone(), meta });
            (self.progress)(0, 0)?;
        }
        let mut commits = items.iter().filter_map(|item| item.meta.commit.as_ref());
        if let Some(first) = commits.next()
            && commits.any(|commit| commit != first)
        {
            return Err(Error::data(format!("{id} is being changed: its files are of two commits"))
                .fix("start again"));
        }
        Ok(items)
    }

    /// Brings one file into the folder.
    fn download(&mut self, item: &Item, source: &mut Source) -> Result<()> {
        let path = self.part(item);
        let mut part = Part::open(&path, &item.meta)?;
        let mut meta = item.meta.clone();
        let mut from_before = part.len > 0;
        loop {
            self.transfer(item, &mut part, &mut meta)?;
            let sha256 = part.sha256();
            match &meta.sha256 {
                Some(expected) if *expected != sha256 => {
                    part.restart()?;
                    // The fault may lie in what an earlier process left.
                    if std::mem::take(&mut from_before) {
                        continue;
                    }
                    let _ = (fs::remove_file(&path), fs::remove_file(&part.tag));
                    return Err(Error::data(format!(
                        "{}: the SHA-256 of what came is {sha256}, the hub says {expected}",
                        item.listed.url
                    ))
                    .fix("start again; a proxy may be changing what it passes on"));
                }
                _ => {
                    let target = self.folder.join(&item.name);
                    let failed = |doing, e: io::Error| Error::io(Kind::Disk, doing, &target, &e);
                    part.file.sync_all().map_err(|e| failed("write", e))?;
                    // In this order a crash leaves no file that the list is wrong about.
                    source.files.retain(|file| file.name != item.name);
                    if target.exists() {
                        fs::remove_file(&target).map_err(|e| failed("replace", e))?;
                    }
                    source.files.push(SourceFile {
                        name: item.name.clone(),
                        split: item.listed.split.clone(),
                        url: item.listed.url.clone(),
                        bytes: part.len,
                        sha256,
                        etag: meta.etag,
                        commit: meta.commit,
                    });
                    self.write(source)?;
                    fs::rename(&path, &target).map_err(|e| failed("put in place", e))?;
                    let _ = fs::remove_file(&part.tag);
                    self.done += part.len;
                    return Ok(());
                }
            }
        }
    }

    /// Fills the part to the size that the file has.
    fn transfer(&mut self, item: &Item, part: &mut Part, meta: &mut Meta) -> Result<()> {
        let mut tries = 0;
        loop {
            if meta.size.is_some() && meta.size == Some(part.len) {
                return Ok(());
            }
            let before = self.downloaded;
            match self.attempt(item, part, meta) {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Again(what, asked)) => {
                    // A connection that brings something is worth another, however often it breaks.
                    tries = if self.downloaded > before { 1 } else { tries + 1 };
                    self.wait(&item.listed.url, tries, &what, asked)?;
                }
            }
        }
    }

    fn attempt(&mut self, item: &Item, part: &mut Part, meta: &mut Meta) -> Result<(), Trouble> {
        let url = &item.listed.url;
        let mut headers = Vec::new();
        if part.len > 0 {
            match &part.etag {
                Some(etag) => headers.push(("if-range", etag.clone())),
                // Without either, two halves of different files could not be told from one that is whole.
                None if meta.sha256.is_none() => part.restart()?,
                None => {}
            }
        }
        if part.len > 0 {
            headers.push(("range", format!("bytes={}-", part.len)));
        }
        let reply = self.hub.send("GET", url, &headers)?;
        if let Some(asked) = reply.busy() {
            return Err(Trouble::Again(format!("HTTP status {}", reply.status), asked));
        }
        let answer = reply.response.headers();
        let size = match reply.status {
            200 => {
                part.restart()?;
                number(answer, "content-length")
            }
            206 => match header(answer, "content-range").and_then(content_range) {
                Some((from, size)) if from == part.len => size,
                _ => {
                    part.restart()?;
                    return Err(Trouble::Again("the hub sent another part of the file".into(), None));
                }
            },
            416 => {
                part.restart()?;
                return Err(Trouble::Again("the file has become shorter".into(), None));
            }
            _ => return Err(self.hub.refused(&self.request.id, url, reply).into()),
        };
        let etag = header(answer, "etag").filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let known = meta.size.is_some();
        *meta = std::mem::take(meta).or(reply.meta);
        meta.size = meta.size.or(size);
        if let (Some(expected), Some(size)) = (meta.size, size)
            && expected != size
        {
            part.restart()?;
            return Err(Trouble::Again(format!("{size} bytes were offered, {expected} expected"), None));
        }
        if !known {
            self.total += meta.size.unwrap_or(0);
        }
        part.remember(etag, meta)?;

        let mut body = reply.response.into_body().into_reader();
        let mut block = vec![0; 1 << 17];
        loop {
            let n = body.read(&mut block).map_err(|e| Trouble::Again(e.to_string(), None))?;
            if n == 0 {
                break;
            }
            part.append(&block[..n])?;
            self.downloaded += n as u64;
            (self.progress)(self.done + part.len, self.total.max(self.done + part.len))?;
        }
        match meta.size {
            Some(size) if part.len < size => {
                Err(Trouble::Again(format!("the connection ended after {} of {size} bytes", part.len), None))
            }
            Some(size) if part.len > size => {
                part.restart()?;
                Err(Trouble::Again(format!("more than the {size} bytes of the file came"), None))
            }
            _ => Ok(()),
        }
    }
}

/// A file that is being downloaded.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
    /// The etag of the server that it came from, for `If-Range`.
    etag: Option<String>,
    /// Where that is written down.
    tag: PathBuf,
}

/// What is written down about a part.
#[derive(Default, Serialize, Deserialize)]
struct Tag {
    /// The hub's etag of the file, and that of the server that sent it.
    hub: Option<String>,
    server: Option<String>,
}

impl Part {
    /// Opens what an earlier process left of this very file, or begins.
    fn open(path: &Path, meta: &Meta) -> Result<Self> {
        let failed = |e: io::Error| Error::io(Kind::Disk, "write", path, &e);
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::disk(format!(
                    "{}: another process is fetching this file",
                    path.display()
                ))
                .fix("wait for it, or choose another folder"));
            }
            // Some file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let tag = path.with_extension("part.etag");
        let known: Tag =
            fs::read(&tag).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut part =
            Self { path: path.to_owned(), file, len: 0, hash: Sha256::new(), etag: known.server, tag };
        let len = part.file.metadata().map_err(failed)?.len();
        if known.hub.is_none() || known.hub != meta.etag || meta.size.is_some_and(|size| len > size) {
            part.restart()?;
        } else {
            part.len = io::copy(&mut part.file, &mut Hashing(&mut part.hash)).map_err(failed)?;
        }
        Ok(part)
    }

    fn failed(&self, e: &io::Error) -> Error {
        Error::io(Kind::Disk, "write", &self.path, e)
    }

    /// Throws away what is there.
    fn restart(&mut self) -> Result<()> {
        (self.len, self.hash, self.etag) = (0, Sha256::new(), None);
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Writes down what the part is of, before there is anything in it.
    fn remember(&mut self, etag: Option<String>, meta: &Meta) -> Result<()> {
        self.etag = etag;
        let tag = Tag { hub: meta.etag.clone(), server: self.etag.clone() };
        let text = serde_json::to_vec(&tag).map_err(|e| Error::internal(e.to_string()))?;
        fs::write(&self.tag, text).map_err(|e| Error::io(Kind::Disk, "write", &self.tag, &e))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(e) = self.file.write_all(bytes) {
            // The next process takes all that is there for good.
            let _ = self.file.set_len(self.len);
            return Err(self.failed(&e));
        }
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn sha256(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A hash as something to write to.
struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error for what cannot be asked for.
fn check(request: &Request) -> Result<()> {
    let parts: Vec<&str> = request.id.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(|part| is_name(part) && part.is_ascii()) {
        return Err(Error::usage(format!("{:?} is no data set of the hub", request.id))
            .fix("give it as in owner/name; files on this disk need no fetching"));
    }
    for (what, name) in [("configuration", &request.config), ("revision", &request.revision)] {
        if name.as_ref().is_some_and(|name| name.is_empty() || name.contains("..")) {
            return Err(Error::usage(format!("{:?} is no {what}", name.as_deref().unwrap_or_default()))
                .fix(format!("leave the {what} out, or name one")));
        }
    }
    match request.splits.iter().find(|split| !is_name(split)) {
        Some(split) => Err(Error::usage(format!("{split:?} is no split")).fix("name it as in train")),
        None => Ok(()),
    }
}

/// Whether this can be the name of a data set, an owner or a split, and so part of a file name.
fn is_name(name: &str) -> bool {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && !name.contains("..")
        && name.chars().all(fine)
}

/// What the folder holds, if it is this data set.
fn old_source(folder: &Path, request: &Request) -> Result<Option<Source>> {
    let path = folder.join(SOURCE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(Kind::Disk, "read", &path, &e)),
    };
    let other = "choose another folder, or remove this one";
    let source: Source = serde_json::from_slice(&bytes)
        .map_err(|e| Error::disk(format!("{} is damaged: {e}", path.display())).fix(other))?;
    if let Some(file) = source.files.iter().find(|file| !is_name(&file.name)) {
        return Err(
            Error::disk(format!("{} is damaged: it names {:?}", path.display(), file.name)).fix(other)
        );
    }
    let name = |id: &str, config: Option<&String>| match config {
        Some(config) => format!("{id} ({config})"),
        None => id.to_owned(),
    };
    if source.id != request.id || (request.config.is_some() && request.config != source.config) {
        let (there, asked) =
            (name(&source.id, source.config.as_ref()), name(&request.id, request.config.as_ref()));
        return Err(Error::disk(format!("{} holds {there}, not {asked}", folder.display())).fix(other));
    }
    Ok(Some(source))
}

/// How many files the split of this one has: `3` of `train-00001-of-00003.parquet`.
fn shards(name: &str) -> Option<usize> {
    name.split_once("-of-")?.1.split('.').next()?.parse().ok()
}

fn is_there(folder: &Path, file: &SourceFile) -> bool {
    fs::metadata(folder.join(&file.name)).is_ok_and(|meta| meta.is_file() && meta.len() == file.bytes)
}

/// The licences that a data set names, on its card or else in its tags.
fn licenses(info: &Value) -> Vec<String> {
    let texts = |value: &Value| -> Vec<String> {
        match value {
            Value::String(text) => vec![text.clone()],
            Value::Array(all) => all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        }
    };
    let named = texts(&info["cardData"]["license"]);
    let tags = texts(&info["tags"]).into_iter();
    if named.is_empty() {
        tags.filter_map(|t| t.strip_prefix("license:").map(str::to_owned)).collect()
    } else {
        named
    }
}

/// The split, path and extension of the data files among these paths. Of several formats the first of our list is taken;
/// where no name says a split, all are `train`.
fn choose(folder: &str, paths: &[String]) -> Vec<(String, String, String)> {
    const FORMATS: [&[&str]; 4] = [&["parquet"], &["jsonl", "ndjson"], &["csv"], &["tsv"]];
    const PACKED: [&str; 4] = [".gz", ".gzip", ".zst", ".zstd"];
    let mut paths: Vec<&String> = paths.iter().collect();
    paths.sort();
    for format in FORMATS {
        let mut found = Vec::new();
        for path in &paths {
            let lower = path.to_lowercase();
            let (bare, packed) = PACKED
                .iter()
                .find_map(|packed| lower.strip_suffix(packed).map(|bare| (bare, *packed)))
                .unwrap_or((&lower, ""));
            let Some((stem, extension)) = bare.rsplit_once('.') else { continue };
            if format.contains(&extension) && (packed.is_empty() || extension != "parquet") {
                let stem = stem.strip_prefix(&folder.to_lowercase()).unwrap_or(stem);
                found.push((split_of(stem), (*path).clone(), format!("{extension}{packed}")));
            }
        }
        let silent = found.iter().all(|(split, ..)| split.is_none());
        let mut files: Vec<_> = found
            .into_iter()
            .filter_map(|(split, path, extension)| {
                Some((split.or_else(|| silent.then(|| "train".into()))?, path, extension))
            })
            .collect();
        if !files.is_empty() {
            files.sort();
            return files;
        }
    }
    Vec::new()
}

/// The split that a path says, in lower case and without its extension: `NAME-00000-of-00003`, or a word that stands for
/// one, as the `datasets` library reads it.
fn split_of(stem: &str) -> Option<String> {
    let file = stem.rsplit('/').next().unwrap_or(stem);
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((rest, of)) = file.rsplit_once("-of-")
        && let Some((name, n)) = rest.rsplit_once('-')
        && number(n)
        && number(of)
        && is_name(name)
    {
        return Some(name.to_owned());
    }
    // The file's own name counts before those of its folders.
    stem.rsplit('/').find_map(|part| {
        part.split(|c: char| !c.is_alphabetic()).find_map(|word| match word {
            "train" | "training" => Some("train".to_owned()),
            "validation" | "valid" | "val" | "dev" => Some("validation".to_owned()),
            "test" | "testing" | "eval" | "evaluation" => Some("test".to_owned()),
            _ => None,
        })
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    header(headers, name).and_then(|value| value.trim().parse().ok())
}

/// An etag without its quotation marks and the mark of a weak one.
fn unquote(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}

/// The first byte and the size of the whole from `bytes 5-9/10`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, size.trim().parse().ok()))
}

/// The address of the next page from `<URL>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// `to` as seen from `base`.
fn join(base: &str, to: &str) -> String {
    if to.starts_with("http://") || to.starts_with("https://") {
        return to.to_owned();
    }
    if let Some(rest) = to.strip_prefix("//") {
        return format!("{}//{rest}", base.split("//").next().unwrap_or("https:"));
    }
    let origin = origin(base);
    if to.starts_with('/') {
        return format!("{origin}{to}");
    }
    let path = base[origin.len()..].split(['?', '#']).next().unwrap_or_default();
    format!("{origin}{}/{to}", path.rsplit_once('/').map_or("", |(folder, _)| folder))
}

/// A part of a URL's path.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A path in a URL.
fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// What a test server got: method and path, and the headers with their names in lower case.
    #[derive(Clone, Debug)]
    struct Asked {
        line: String,
        headers: BTreeMap<String, String>,
    }

    /// What it answers.
    #[derive(Clone, Default)]
    struct Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
        /// The connection is cut after so many bytes of the body.
        cut: Option<usize>,
    }

    fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    fn body(bytes: impl Into<Vec<u8>>) -> Answer {
        Answer { status: 200, body: bytes.into(), ..Answer::default() }
    }

    fn value(value: &Value) -> Answer {
        body(value.to_string())
    }

    fn redirect(to: &str) -> Answer {
        status(302).with("location", to)
    }

    impl Answer {
        fn with(mut self, name: &str, value: &str) -> Self {
            self.headers.push((name.into(), value.into()));
            self
        }

        /// As a server with ranges gives it.
        fn ranged(mut self, asked: &Asked, etag: &str) -> Self {
            let from = asked.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
            let same = asked.headers.get("if-range").is_none_or(|known| known == etag);
            if let Some(from) = from.and_then(|from| from.parse::<usize>().ok()).filter(|_| same) {
                let size = self.body.len();
                self = self.with("content-range", &format!("bytes {from}-{}/{size}", size - 1));
                self.body.drain(..from);
                self.status = 206;
            }
            self.with("etag", etag)
        }
    }

    type Handler = dyn FnMut(&Asked) -> Answer + Send;

    /// A server on the loopback interface that ends with the test.
    struct Server {
        url: String,
        asked: Arc<Mutex<Vec<Asked>>>,
        handler: Arc<Mutex<Box<Handler>>>,
    }

    impl Server {
        fn new(handler: impl FnMut(&Asked) -> Answer + Send + 'static) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::<Mutex<Vec<Asked>>>::default();
            let handler: Arc<Mutex<Box<Handler>>> = Arc::new(Mutex::new(Box::new(handler)));
            let (log, answer) = (Arc::clone(&asked), Arc::clone(&handler));
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(io::Result::ok) {
                    let _ = serve(stream, &log, &answer);
                }
            });
            Self { url, asked, handler }
        }

        /// Answers differently from now on.
        fn change(&self, handler: impl FnMut(&Asked) -> Answer + Send + 'static) {
            *self.handler.lock().unwrap() = Box::new(handler);
        }

        fn take(&self) -> Vec<Asked> {
            std::mem::take(&mut self.asked.lock().unwrap())
        }

        fn gets(&self) -> usize {
            self.take().iter().filter(|asked| asked.line.starts_with("GET")).count()
        }
    }

    fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &Mutex<Box<Handler>>) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                if line.trim().is_empty() {
                    break;
                }
                lines.push(line.trim().to_owned());
            }
            let split = |line: &String| {
                line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            };
            let headers = lines[1..].iter().filter_map(split).collect();
            let line = lines[0].strip_suffix(" HTTP/1.1").unwrap().to_owned();
            let asked = Asked { line, headers };
            log.lock().unwrap().push(asked.clone());
            if asked.line.starts_with("CONNECT ") {
                out.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                continue; // as a proxy, we are the other server too
            }
            let reply = answer.lock().unwrap()(&asked);
            let mut head = format!("HTTP/1.1 {} -\r\nconnection: close\r\n", reply.status);
            if !reply.headers.iter().any(|(name, _)| name == "content-length") {
                head += &format!("content-length: {}\r\n", reply.body.len());
            }
            for (name, value) in &reply.headers {
                head += &format!("{name}: {value}\r\n");
            }
            out.write_all((head + "\r\n").as_bytes())?;
            if !asked.line.starts_with("HEAD ") {
                out.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
            }
            return Ok(());
        }
    }

    fn hub(endpoint: &str, token: Option<&str>) -> Hub {
        let endpoint = endpoint.to_owned();
        let settings = Settings { endpoint, token: token.map(str::to_owned), offline: false, roots: None };
        Hub::new(settings, None, Duration::from_millis(1)).unwrap()
    }

    fn request(splits: &[&str]) -> Request {
        let splits = splits.iter().map(|split| (*split).to_owned()).collect();
        Request { id: "them/set".into(), splits, ..Request::default() }
    }

    fn get(hub: &Hub, request: &Request, folder: &Path) -> Result<Fetched> {
        hub.fetch(request, folder, &mut |_, _| Ok(()))
    }

    fn sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    const COMMIT: &str = "1f0c0ffee";

    /// The content of a shard, longer than what is read at once.
    fn shard(name: &str) -> Vec<u8> {
        (0..300_000u32).map(|i| (i % 251) as u8 ^ name.len() as u8).chain(name.bytes()).collect()
    }

    /// The routes of a hub with a parquet export of two shards of `train` and one of `test`; large files are at `cdn`.
    fn routes(asked: &Asked, cdn: &str) -> Answer {
        let (method, path) = asked.line.split_once(' ').unwrap();
        let export = "/api/datasets/them/set/parquet";
        let resolve = "/datasets/them/set/resolve/refs%2Fconvert%2Fparquet/default";
        match path {
            "/api/datasets/them/set" => value(&json!({
                "id": "them/set", "sha": "abc123", "gated": false, "tags": ["license:mit", "x"],
                "cardData": {"license": ["apache-2.0"]},
            })),
            _ if path == export || path == format!("{export}/default") => {
                let url = |split: &str, n: u32| format!("{ENDPOINT}{export}/default/{split}/{n}.parquet");
                let splits = json!({"train": [url("train", 0), url("train", 1)], "test": [url("test", 0)]});
                value(&if path == export { json!({"default": splits}) } else { splits })
            }
            _ => {
                if let Some(rest) = path.strip_prefix(&format!("{export}/default/")) {
                    return redirect(&format!("{resolve}/{}", rest.replace('/', "/000")));
                }
                let Some(name) = path.strip_prefix(&format!("{resolve}/")) else { return status(404) };
                let bytes = shard(name);
                let answer = redirect(&format!("{cdn}/blob/{name}?signature=secret"))
                    .with("x-linked-etag", &format!("\"{}\"", sha256(&bytes)))
                    .with("x-linked-size", &bytes.len().to_string())
                    .with("x-repo-commit", COMMIT);
                assert!(method == "HEAD" || method == "GET");
                answer
            }
        }
    }

    fn blob(asked: &Asked) -> Answer {
        let path = asked.line.split_once("/blob/").unwrap().1.split('?').next().unwrap().to_owned();
        body(shard(&path)).ranged(asked, "\"cdn-1\"")
    }

    /// A hub and the host that it redirects to.
    fn pair() -> (Server, Server) {
        let cdn = Server::new(blob);
        let url = cdn.url.clone();
        (Server::new(move |asked| routes(asked, &url)), cdn)
    }

    #[test]
    fn the_export_with_its_source_and_the_token_at_home() {
        let (server, cdn) = pair();
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new/folder");
        let hub = hub(&server.url, Some("hf_secret"));
        let mut seen = Vec::new();
        let fetched = hub
            .fetch(&request(&["train"]), &folder, &mut |done, total| {
                seen.push((done, total));
                Ok(())
            })
            .unwrap();
        let train = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"];
        assert_eq!(names(&folder), ["source.json", train[0], train[1]]);
        let size = shard("train/0000.parquet").len() as u64;
        assert_eq!((seen[0], *seen.last().unwrap()), ((0, 0), (2 * size, 2 * size)));
        assert!(seen.windows(2).all(|w| w[0].0 <= w[1].0) && seen.len() > 6);
        assert_eq!(fetched.files, train.map(|name| folder.join(name)));
        assert_eq!(fetched.downloaded, 2 * size);
        let text = fs::read(folder.join(SOURCE)).unwrap();
        let source: Value = serde_json::from_slice(&text).unwrap();
        let content = sha256(&shard("train/0001.parquet"));
        assert_eq!(
            (&source["revision"], &source["license"], &source["config"], &source["splits"]),
            (&json!("abc123"), &json!(["apache-2.0"]), &json!("default"), &json!(["train", "test"]))
        );
        assert_eq!(
            source["files"][1],
            json!({
                "name": train[1], "split": "train", "bytes": size, "sha256": content, "etag": content, "commit": COMMIT,
                "url": format!("{}/api/datasets/them/set/parquet/default/train/1.parquet", server.url),
            })
        );
        assert!(!String::from_utf8(text).unwrap().contains("secret"));
        assert_eq!(fs::read(folder.join(train[1])).unwrap(), shard("train/0001.parquet"));
        let token = |asked: &Asked| asked.headers.get("authorization").cloned();
        assert!(server.take().iter().all(|asked| token(asked).as_deref() == Some("Bearer hf_secret")));
        let elsewhere = cdn.take();
        assert!(elsewhere.len() == 2 && elsewhere.iter().all(|asked| token(asked).is_none()));

        // What is there is not fetched again; another split comes beside it.
        assert_eq!(get(&hub, &request(&["train"]), &folder).unwrap().downloaded, 0);
        assert_eq!(cdn.gets(), 0);
        let all = get(&hub, &Request { config: Some("default".into()), ..request(&[]) }, &folder).unwrap();
        assert_eq!((all.files.len(), cdn.gets(), all.source.files.len()), (3, 1, 3));
        fs::remove_file(folder.join(train[0])).unwrap();
        assert_eq!(get(&hub, &request(&[]), &folder).unwrap().downloaded, size);

        // Offline the folder alone decides.
        let offline = Hub { offline: true, ..hub };
        server.take();
        assert_eq!(get(&offline, &request(&[]), &folder).unwrap().files.len(), 3);
        fs::remove_file(folder.join(train[1])).unwrap();
        assert_eq!(get(&offline, &request(&["test"]), &folder).unwrap().files.len(), 1);
        for (request, what) in [
            (request(&["train"]), "does not hold all of the split \"train\""),
            (request(&[]), "does not hold all of the split \"train\""),
            (Request { revision: Some("v2".into()), ..request(&["test"]) }, "holds revision abc123"),
        ] {
            let e = get(&offline, &request, &folder).unwrap_err();
            assert!(e.message.contains("HF_HUB_OFFLINE is set") && e.message.ends_with(what), "{e}");
            assert!(e.kind == Kind::Usage && e.fix.is_some());
        }
        assert!(
            get(&offline, &request(&[]), Path::new("no/such"))
                .unwrap_err()
                .message
                .contains("not hold it yet")
        );
        assert_eq!(server.gets(), 0);
    }

    #[test]
    fn a_cut_connection_goes_on_where_it_was() {
        let (server, cdn) = pair();
        let folder = tempfile::tempdir().unwrap();
        let mut cuts = 9; // more than TRIES, but each brings something
        cdn.change(move |asked| {
            cuts -= 1;
            Answer { cut: (cuts > 0).then_some(20_000), ..blob(asked) }
        });
        let hub = hub(&server.url, None);
        let fetched = get(&hub, &request(&["test"]), folder.path()).unwrap();
        assert_eq!(fs::read(&fetched.files[0]).unwrap(), shard("test/0000.parquet"));
        assert_eq!(fetched.downloaded, fetched.source.files[0].bytes);
        let asked = cdn.take();
        let ranges: Vec<_> =
            asked.iter().map(|asked| asked.headers.get("range").map(String::as_str)).collect();
        assert_eq!((ranges.len(), ranges[0], ranges[2]), (9, None, Some("bytes=40000-")));
        assert_eq!(asked[8].headers["if-range"], "\"cdn-1\"");
        assert_eq!(names(folder.path()), ["source.json", "test-00000-of-00001.parquet"]);
    }

    #[test]
    fn a_later_call_goes_on_unless_the_file_is_another() {
        let (server, cdn) = pair();
        let size = shard("test/0000.parquet").len() as u64;
        for (etag, damage, asked_twice, downloaded) in [
            ("\"cdn-1\"", false, false, size - 20_000),
            // The server has another file under the same name: it answers with the whole.
            ("\"cdn-2\"", false, false, size),
            // What was left is damaged: the hash tells, and all is fetched again.
            ("\"cdn-1\"", true, true, 2 * size - 20_000),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let hub = hub(&server.url, None);
            let mut calls = 0;
            cdn.change(move |asked| {
                calls += 1;
                if calls > 1 { status(503) } else { Answer { cut: Some(20_000), ..blob(asked) } }
            });
            let e = get(&hub, &request(&["test"]), folder.path()).unwrap_err();
            assert!(e.message.ends_with("HTTP status 503 (tried 6 times)") && e.kind == Kind::Data, "{e}");
            assert!(e.fix.unwrap().contains("go on from here") && !e.message.contains("secret"));
            let part = folder.path().join("test-00000-of-00001.parquet.part");
            assert_eq!(fs::metadata(&part).unwrap().len(), 20_000);
            if damage {
                let file = File::options().write(true).open(&part).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 100).unwrap();
            }
            cdn.take();
            cdn.change(move |asked| {
                let path = asked.line.split_once("/blob/").unwrap().1.split('?').next().unwrap().to_owned();
                body(shard(&path)).ranged(asked, etag)
            });
            let fetched = get(&hub, &request(&["test"]), folder.path()).unwrap();
            assert_eq!(fs::read(&fetched.files[0]).unwrap(), shard("test/0000.parquet"));
            assert_eq!((fetched.downloaded, cdn.gets()), (downloaded, 1 + usize::from(asked_twice)));
            assert_eq!(names(folder.path()), ["source.json", "test-00000-of-00001.parquet"]);
        }
    }

    #[test]
    fn busy_hubs_are_asked_again_as_they_wish() {
        let (server, cdn) = pair();
        let url = cdn.url.clone();
        let mut calls = BTreeMap::new();
        server.change(move |asked| {
            let calls = calls.entry(asked.line.clone()).and_modify(|n| *n += 1).or_insert(1);
            match calls {
                1 => status(429).with("retry-after", "0"),
                2 => status(503).with("retry-after", "0"),
                _ => routes(asked, &url),
            }
        });
        let folder = tempfile::tempdir().unwrap();
        // By itself it would wait for longer than a test may take.
        let slow = Hub { pause: Duration::from_secs(1000), ..hub(&server.url, None) };
        assert_eq!(get(&slow, &request(&["test"]), folder.path()).unwrap().files.len(), 1);
        let hub = hub(&server.url, None);
        server.change(|_| status(429).with("retry-after", "3600"));
        let e = get(&hub, &request(&["test"]), folder.path()).unwrap_err();
        assert!(e.message.contains("HTTP status 429; the hub asks to come back in 3600 s"), "{e}");
        server.change(|_| status(429));
        let e = get(&hub, &request(&["test"]), folder.path()).unwrap_err();
        assert!(e.message.contains("too many requests") && e.kind == Kind::Data, "{e}");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let (server, _cdn) = pair();
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        let terms = format!("accept the terms at {}/datasets/them/set", server.url);
        for (code, error, token, message, fix) in [
            (
                401,
                "RepoNotFound",
                None,
                "there is no data set them/set, or it is private or gated",
                "check the name",
            ),
            (401, "", Some("hf_x"), "the hub does not know the token", "make a new token at"),
            (401, "GatedRepo", None, "them/set is gated", terms.as_str()),
            (403, "", Some("hf_x"), "them/set is gated", terms.as_str()),
            (403, "GatedRepo", None, "them/set is gated", "set HF_TOKEN to a token"),
            (404, "RepoNotFound", None, "not found: ", "check the name at"),
            (
                404,
                "RevisionNotFound",
                None,
                "them/set has no such revision",
                "choose a commit, branch or tag",
            ),
            (400, "", None, "cannot fetch", "start again later"),
        ] {
            server.change(move |_| Answer {
                body: json!({"error": "some\u{7} reason"}).to_string().into(),
                ..status(code).with("x-error-code", error)
            });
            let e = get(&hub(&server.url, token), &request(&[]), &folder).unwrap_err();
            assert!(e.message.starts_with(&format!("HTTP status {code}: {message}")), "{e}");
            assert!(e.message.ends_with("(the hub says: some reason)") && e.kind == Kind::Data, "{e}");
            let given = e.fix.unwrap();
            assert!(given.contains(fix), "{given}");
        }
        assert!(!folder.exists());
    }

    #[test]
    fn what_is_not_as_the_hub_said_is_not_kept() {
        let (server, cdn) = pair();
        let folder = tempfile::tempdir().unwrap();
        let hub = hub(&server.url, None);
        cdn.change(|asked| {
            let mut answer = blob(asked);
            answer.body[7] ^= 1;
            answer
        });
        let e = get(&hub, &request(&["test"]), folder.path()).unwrap_err();
        assert!(e.message.contains("the SHA-256 of what came is") && e.kind == Kind::Data, "{e}");
        assert!(names(folder.path()).is_empty());
        // A page of a proxy in place of the file.
        cdn.change(|_| body("<html>please log in</html>"));
        let e = get(&hub, &request(&["test"]), folder.path()).unwrap_err();
        assert!(e.message.contains("26 bytes were offered, 300017 expected"), "{e}");
        server.change(|_| body("<html>"));
        let e = get(&hub, &request(&["test"]), folder.path()).unwrap_err();
        assert!(e.message.contains("the answer is not valid JSON"), "{e}");
        server.change(|_| value(&json!({})));
        assert!(get(&hub, &request(&[]), folder.path()).unwrap_err().message.contains("names no commit"));
        server.change(|_| value(&json!({"sha": "s"})));
        let e = get(&hub, &request(&[]), folder.path()).unwrap_err();
        assert!(e.message.contains("not of a known form"), "{e}");
        server.change(|asked| match asked.line.contains("/parquet") {
            true => value(&json!({"../evil": ["/x.parquet"]})),
            false => value(&json!({"sha": "s"})),
        });
        let e = get(&hub, &request(&[]), folder.path()).unwrap_err();
        assert!(e.message.contains("a split \"../evil\", which is no name"), "{e}");
        server.change(|_| redirect("/round"));
        assert!(
            get(&hub, &request(&[]), folder.path()).unwrap_err().message.ends_with("redirected without end")
        );
    }

    #[test]
    fn configurations_and_splits_are_chosen_by_name() {
        let server = Server::new(|asked| match asked.line.split_once(' ').unwrap().1 {
            "/api/datasets/them/set" => value(&json!({"sha": "abc"})),
            _ => value(&json!({"en": {"train": ["/x"]}, "de": {"train": ["/y"]}})),
        });
        let folder = tempfile::tempdir().unwrap();
        let hub = hub(&server.url, None);
        let e = get(&hub, &request(&[]), folder.path()).unwrap_err();
        assert_eq!(
            (e.message.as_str(), e.fix.as_deref()),
            ("them/set has 2 configurations; name one", Some("it has en, de"))
        );
        let e = get(&hub, &Request { config: Some("fr".into()), ..request(&[]) }, folder.path()).unwrap_err();
        assert_eq!(e.message, "them/set has no configuration \"fr\"");
        server.change(|asked| match asked.line.split_once(' ').unwrap().1 {
            "/api/datasets/them/set" => value(&json!({"sha": "abc"})),
            "/api/datasets/them/set/parquet" => {
                value(&json!({"en": {"train": ["/x"]}, "de": {"train": ["/y"]}}))
            }
            "/api/datasets/them/set/parquet/de" => value(&json!({"train": ["/y"]})),
            _ => status(404),
        });
        let e = get(&hub, &Request { config: Some("fr".into()), ..request(&[]) }, folder.path()).unwrap_err();
        assert_eq!(
            (e.message.as_str(), e.fix.as_deref()),
            ("them/set has no configuration \"fr\"", Some("it has en, de"))
        );
        let e = get(&hub, &Request { config: Some("de".into()), ..request(&["dev"]) }, folder.path())
            .unwrap_err();
        assert_eq!(
            (e.message.as_str(), e.fix.as_deref()),
            ("them/set has no split \"dev\"", Some("it has train"))
        );
        for (id, config) in
            [("a/b/c", None), ("../x", None), ("", None), ("a/b", Some("")), ("a", Some("../x"))]
        {
            let request = Request { id: id.into(), config: config.map(str::to_owned), ..Request::default() };
            assert_eq!(get(&hub, &request, folder.path()).unwrap_err().kind, Kind::Usage);
        }
    }

    /// A repository without an export; its file list comes in two pages.
    fn repository(asked: &Asked) -> Answer {
        let path = asked.line.split_once(' ').unwrap().1;
        let file = |path: &str| json!({"type": "file", "path": path, "size": 1});
        match path {
            "/api/datasets/them/set" | "/api/datasets/them/set/revision/v%2F1" => {
                value(&json!({"sha": "abc", "tags": ["license:mit"]}))
            }
            "/api/datasets/them/set/tree/abc/data?recursive=true" => {
                let next = "</api/datasets/them/set/tree/abc/data?recursive=true&cursor=x>; rel=\"next\"";
                value(&json!([{"type": "directory", "path": "data/b"}, file("data/train b.jsonl"), file("data/x.csv")]))
                    .with("link", next)
            }
            "/api/datasets/them/set/tree/abc/data?recursive=true&cursor=x" => value(&json!([
                file("data/dev.jsonl.gz"),
                file("data/train/a.jsonl"),
                file("data/info.jsonl")
            ])),
            _ => match path.strip_prefix("/datasets/them/set/resolve/abc/data/") {
                Some(name) => body(format!("{{\"name\":\"{name}\"}}\n")).with("etag", "\"0123\""),
                None => status(404),
            },
        }
    }

    #[test]
    fn repositories_without_an_export_give_their_own_files() {
        let server = Server::new(repository);
        for revision in [None, Some("v/1".to_owned())] {
            let folder = tempfile::tempdir().unwrap();
            let hub = hub(&server.url, None);
            let request = Request { revision: revision.clone(), ..request(&[]) };
            let fetched = get(&hub, &request, folder.path()).unwrap();
            let train = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"];
            assert_eq!(
                names(folder.path()),
                ["source.json", train[0], train[1], "validation-00000-of-00001.jsonl.gz"]
            );
            assert_eq!(fs::read_to_string(&fetched.files[0]).unwrap(), "{\"name\":\"train%20b.jsonl\"}\n");
            assert_eq!(
                (fetched.source.requested, fetched.source.license),
                (revision, vec!["mit".to_owned()])
            );
            // Small files have no hash at the hub; their etag tells.
            server.take();
            assert_eq!(get(&hub, &request, folder.path()).unwrap().downloaded, 0);
            let asked = server.take();
            assert!(!asked.iter().any(|asked| asked.line.starts_with("GET /datasets")), "{asked:?}");
        }
        let (request, folder) =
            (Request { config: Some("en".into()), ..request(&[]) }, tempfile::tempdir().unwrap());
        let e = get(&hub(&server.url, None), &request, folder.path()).unwrap_err();
        assert!(e.message.ends_with("no data files in en/ or data/en/"), "{e}");
    }

    #[test]
    fn splits_are_told_by_names() {
        for (stem, split) in [
            ("/train-00000-of-00001", Some("train")),
            ("/my.split_2-00001-of-00003", Some("my.split_2")),
            ("/train/part-0", Some("train")),
            ("/a_dev", Some("validation")),
            ("/train/test", Some("test")),
            ("/eval2", Some("test")),
            ("/training_data", Some("train")),
            ("/latest", None),
            ("/constrained", None),
            ("", None),
        ] {
            assert_eq!(split_of(stem).as_deref(), split, "{stem}");
        }
        let choose = |folder: &str, paths: &[&str]| -> Vec<String> {
            let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
            choose(folder, &paths)
                .into_iter()
                .map(|(split, path, end)| format!("{split} {path} {end}"))
                .collect()
        };
        assert_eq!(
            choose("", &["b.csv", "a.CSV.gz", "README.md", ".gitattributes"]),
            ["train a.CSV.gz csv.gz", "train b.csv csv"]
        );
        assert_eq!(
            choose("test", &["test/train.parquet", "test/x.csv"]),
            ["train test/train.parquet parquet"]
        );
        assert!(choose("data", &["data/x.png", "data/train.parquet.gz"]).is_empty());
    }

    #[test]
    fn shards_that_are_gone_go_and_files_of_others_stay() {
        let (server, cdn) = pair();
        let folder = tempfile::tempdir().unwrap();
        let hub = hub(&server.url, None);
        get(&hub, &request(&[]), folder.path()).unwrap();
        let url = cdn.url.clone();
        server.change(move |asked| match asked.line.ends_with("/parquet") {
            true => value(
                &json!({"default": {"train": ["/api/datasets/them/set/parquet/default/train/0.parquet"]}}),
            ),
            false => routes(asked, &url),
        });
        let fetched = get(&hub, &request(&["train"]), folder.path()).unwrap();
        let (train, test) = ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet");
        assert_eq!(names(folder.path()), ["source.json", test, train]);
        let listed: Vec<&str> = fetched.source.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(listed, [train, test]);

        let e = get(&hub, &Request { id: "them/other".into(), ..request(&[]) }, folder.path()).unwrap_err();
        assert!(
            e.message.ends_with("holds them/set (default), not them/other") && e.kind == Kind::Disk,
            "{e}"
        );
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join(train), "precious").unwrap();
        let e = get(&hub, &request(&["train"]), other.path()).unwrap_err();
        assert!(e.message.ends_with("was not fetched from the hub by flanrt") && e.kind == Kind::Disk, "{e}");
        assert_eq!(fs::read_to_string(other.path().join(train)).unwrap(), "precious");
        fs::write(other.path().join(SOURCE), "{}").unwrap();
        assert!(get(&hub, &request(&[]), other.path()).unwrap_err().message.contains("is damaged"));
    }

    #[test]
    fn the_caller_can_stop_and_go_on() {
        let (server, _cdn) = pair();
        let folder = tempfile::tempdir().unwrap();
        let hub = hub(&server.url, None);
        let stop = |done, _| if done > 0 { Err(Error::new(Kind::Stopped, "stopped")) } else { Ok(()) };
        let e = hub.fetch(&request(&["test"]), folder.path(), &mut { stop }).unwrap_err();
        assert_eq!(e.kind, Kind::Stopped);
        let part = fs::metadata(folder.path().join("test-00000-of-00001.parquet.part")).unwrap().len();
        assert!(part > 0);
        // Nobody else writes to it at the same time.
        let held = File::open(folder.path().join("test-00000-of-00001.parquet.part")).unwrap();
        held.lock().unwrap();
        let e = get(&hub, &request(&["test"]), folder.path()).unwrap_err();
        assert!(e.message.ends_with("another process is fetching this file"), "{e}");
        drop(held);
        let fetched = get(&hub, &request(&["test"]), folder.path()).unwrap();
        assert_eq!(fetched.downloaded + part, fetched.source.files[0].bytes);
    }

    #[test]
    fn nobody_there_and_a_proxy_between() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let e = get(&hub(&format!("http://{nobody}"), None), &request(&[]), folder.path()).unwrap_err();
        assert!(e.message.contains("(tried 6 times)") && e.kind == Kind::Data && e.fix.is_some(), "{e}");

        let proxy = Server::new(repository);
        let settings =
            Settings { endpoint: "http://hub.invalid".into(), token: None, offline: false, roots: None };
        let proxied = Some(Proxy::new(&proxy.url).unwrap());
        let hub = Hub::new(settings, proxied, Duration::from_millis(1)).unwrap();
        assert_eq!(get(&hub, &request(&["validation"]), folder.path()).unwrap().files.len(), 1);
        assert!(proxy.take().iter().any(|asked| asked.line.starts_with("CONNECT hub.invalid:80")));
    }

    #[test]
    fn the_environment_is_that_of_the_library() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let at = home.path().to_str().unwrap();
        let read = |vars: &[(&str, &str)]| {
            Settings::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        let known = |endpoint: &str, token: Option<&str>, offline| Settings {
            endpoint: endpoint.into(),
            token: token.map(str::to_owned),
            offline,
            roots: None,
        };
        assert_eq!(read(&[]).unwrap(), known(ENDPOINT, None, false));
        assert_eq!(
            read(&[("HF_HOME", at), ("HF_ENDPOINT", "http://x:1/"), ("HF_HUB_OFFLINE", "1")]).unwrap(),
            known("http://x:1", Some("hf_file"), true)
        );
        let vars = [("HF_HOME", at), ("HF_TOKEN", " hf_env "), ("HF_ENDPOINT", ""), ("HF_HUB_OFFLINE", "0")];
        assert_eq!(read(&vars).unwrap(), known(ENDPOINT, Some("hf_env"), false));
        let cache = home.path().join("cache/huggingface");
        fs::create_dir_all(&cache).unwrap();
        fs::rename(home.path().join("token"), cache.join("token")).unwrap();
        let xdg = home.path().join("cache");
        assert_eq!(read(&[("XDG_CACHE_HOME", xdg.to_str().unwrap())]).unwrap().token.unwrap(), "hf_file");
        for bad in [[("HF_ENDPOINT", "huggingface.co")], [("HF_TOKEN", "hf_a b")], [("HF_TOKEN_PATH", at)]] {
            let e = read(&bad).unwrap_err();
            assert!(e.kind == Kind::Usage && !e.message.contains("hf_a"), "{e}");
        }
        let bad = Settings { roots: Some(cache.join("token")), ..known(ENDPOINT, None, false) };
        assert!(
            Hub::new(bad, None, Duration::ZERO)
                .err()
                .unwrap()
                .message
                .ends_with("holds no certificates (PEM)")
        );
    }

    #[test]
    fn addresses() {
        for (base, to, joined) in [
            ("https://a/b/c?d=/e", "https://x/y", "https://x/y"),
            ("https://a/b/c?d=/e", "//x/y", "https://x/y"),
            ("https://a/b/c?d=/e", "/y?z", "https://a/y?z"),
            ("https://a/b/c?d=/e", "y", "https://a/b/y"),
            ("https://a", "y", "https://a/y"),
        ] {
            assert_eq!(join(base, to), joined);
        }
        let hub = hub("https://hub.example", Some("t"));
        assert!(hub.is_home("https://HUB.example/x") && hub.is_home("https://hub.example?x"));
        for other in [
            "http://hub.example/",
            "https://hub.example.org/",
            "https://hub.example@evil/",
            "https://hub.example:8/",
        ] {
            assert!(!hub.is_home(other), "{other}");
        }
        assert_eq!(encode_path("a b/é?#/%"), "a%20b/%C3%A9%3F%23/%25");
        assert_eq!(next_page("<a>; rel=\"prev\", <b>; rel=\"next\"").as_deref(), Some("b"));
        assert_eq!((next_page("<b>; rel=\"prev\""), next_page("rel=\"next\"")), (None, None));
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!((content_range("bytes 5-9/*"), content_range("bytes */10")), (Some((5, None)), None));
        assert_eq!((unquote("W/\"x\""), unquote("x")), ("x".into(), "x".into()));
    }
}
