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
        disk::ensure_writable_dir(folder)?;
        Job { hub: self, request, folder, progress, done: 0, total: 0, downloaded: 0 }.run(old)
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
        for split in &request.splits {
            if !source.files.iter().any(|file| file.split == *split) {
                return refuse(format!("{} does not hold the split {split:?}", folder.display()));
            }
        }
        let wanted = |file: &&SourceFile| request.splits.is_empty() || request.splits.contains(&file.split);
        for file in source.files.iter().filter(wanted) {
            if !is_there(folder, file) {
                return refuse(format!("{} is not complete", folder.join(&file.name).display()));
            }
        }
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
                (408 | 429 | 500..=599, _) => {
                    let wait = header(headers, "retry-after").and_then(|wait| wait.trim().parse().ok());
                    return Err(Trouble::Again(
                        format!("HTTP status {status}"),
                        wait.map(Duration::from_secs),
                    ));
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
            _ => (format!("{url}: unexpected HTTP status {status}"), "try again later".into()),
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
            ureq::Error::Io(e) => Self::Again(e.to_string(), None),
            ureq::Error::Rustls(e) => Self::Final(
                Error::data(format!("cannot fetch {url}: {e}"))
                    .fix("behind a proxy that reads along, set SSL_CERT_FILE to a file with its certificate"),
            ),
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
        for split in &self.request.splits {
            if !listed.iter().any(|file| file.split == *split) {
                let mut there: Vec<&str> = listed.iter().map(|file| file.split.as_str()).collect();
                there.dedup();
                return Err(Error::data(format!("{id} has no split {split:?}"))
                    .fix(format!("it has {}", there.join(", "))));
            }
        }
        let splits = &self.request.splits;
        listed.retain(|file| splits.is_empty() || splits.contains(&file.split));

        let mut source = Source {
            id: id.clone(),
            config,
            revision: sha.to_owned(),
            requested: self.request.revision.clone(),
            endpoint: self.hub.endpoint.clone(),
            license: licenses(&info),
            files: old.map_or_else(Vec::new, |old| old.files),
        };
        let items = self.probe(&listed, &source.files)?;
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

    /// [`Hub::send`] until it works.
    fn send(&mut self, method: &str, url: &str) -> Result<Reply> {
        let mut tries = 0;
        loop {
            match self.hub.send(method, url, &[]) {
                Ok(reply) => return Ok(reply),
                Err(Trouble::Final(e)) => return Err(e),
                Err(Trouble::Again(what, asked)) => {
                    tries += 1;
                    self.wait(url, tries, &what, asked)?;
                }
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
        if matches!(reply.status, 401 | 403) {
            return Err(self.hub.refused(id, &url, reply));
        }
        // 405: a hub that answers no HEAD here.
        if !matches!(reply.status, 200 | 405) {
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
                    drop(part);
                    let _ = fs::remove_file(&path);
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
    if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) {
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
            if format.contains(&extension) && !(extension == "parquet" && !packed.is_empty()) {
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
