//! Lookups of host names for the calls of the hook, in threads of their own, because the system's lookup has no timeout.
//!
//! Each name has one lookup at most, and all calls wait for its result. So a name server that does not answer holds one thread
//! for each configured URL, however many calls have given up.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io, thread};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Most addresses of a name that are tried: ureq has no room for more.
const MAX_ADDRESSES: usize = 16;

type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What a lookup has found. An error is shared as its kind and its text.
type Found = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

/// The lookups. Clones share them.
#[derive(Clone)]
pub(super) struct HostLookups(Arc<Shared>);

struct Shared {
    look_up: Box<LookUp>,
    /// Those under way, by the name and the port.
    under_way: Mutex<BTreeMap<String, Arc<Lookup>>>,
}

/// A lookup of one name.
#[derive(Default)]
struct Lookup {
    /// `None` while it is under way.
    result: Mutex<Option<Found>>,
    has_ended: Condvar,
}

impl HostLookups {
    /// Asks the system.
    pub(super) fn new() -> HostLookups {
        HostLookups::with(|name| Ok(name.to_socket_addrs()?.collect()))
    }

    fn with(look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> HostLookups {
        HostLookups(Arc::new(Shared { look_up: Box::new(look_up), under_way: Mutex::default() }))
    }

    /// Returns the addresses of a name with a port, or `None` after the timeout.
    fn addresses(&self, name: &str, timeout: Duration) -> io::Result<Option<Vec<SocketAddr>>> {
        if let Ok(address) = name.parse() {
            return Ok(Some(vec![address]));
        }
        let lookup = self.join(name)?;
        let result = lookup.result.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = lookup.has_ended.wait_timeout_while(result, timeout, |result| result.is_none());
        let (result, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*result {
            None => Ok(None),
            Some(Ok(addresses)) => Ok(Some(addresses.clone())),
            Some(Err((kind, text))) => Err(io::Error::new(*kind, text.clone())),
        }
    }

    /// Returns the lookup of this name that is under way, or begins one.
    fn join(&self, name: &str) -> io::Result<Arc<Lookup>> {
        let mut under_way = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = under_way.get(name) {
            return Ok(Arc::clone(lookup));
        }
        let lookup = Arc::new(Lookup::default());
        let (shared, own, key) = (Arc::clone(&self.0), Arc::clone(&lookup), name.to_owned());
        thread::Builder::new().name("hook-lookup".into()).spawn(move || {
            let result = (shared.look_up)(&key).map_err(|error| (error.kind(), error.to_string()));
            // A call that comes now begins a new one.
            shared.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            *own.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            own.has_ended.notify_all();
        })?;
        under_way.insert(name.to_owned(), Arc::clone(&lookup));
        Ok(lookup)
    }
}

impl fmt::Debug for HostLookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostLookups").finish_non_exhaustive()
    }
}

impl Resolver for HostLookups {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let parts = uri.scheme().zip(uri.authority());
        let name = parts.and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority));
        let name = name.ok_or_else(|| Error::BadUri("it has no host".into()))?;
        let found = self.addresses(&name, *timeout.after)?.ok_or(Error::Timeout(timeout.reason))?;
        let mut addresses = self.empty();
        found.into_iter().take(MAX_ADDRESSES).for_each(|address| addresses.push(address));
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn calls_wait_for_one_lookup_of_a_name() {
        let (gate, closed) = channel::<()>();
        let (closed, begun) = (Mutex::new(closed), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&begun);
        let lookups = HostLookups::with(move |name| {
            count.fetch_add(1, Ordering::SeqCst);
            // The name server of the test answers when the gate is closed.
            closed.lock().expect("no panic").recv().expect_err("nothing is sent");
            match name {
                "a.example:80" => Ok(vec![([192, 0, 2, 1], 80).into()]),
                _ => Err(io::Error::other("no such name")),
            }
        });
        for _ in 0..20 {
            assert!(lookups.addresses("a.example:80", SHORT).expect("a thread").is_none());
        }
        let lookup = lookups.join("a.example:80").expect("it is under way");
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| lookups.addresses("a.example:80", LONG))).collect();
            // The map, the thread of the lookup, this test and three that wait.
            while Arc::strong_count(&lookup) < 6 {
                thread::yield_now();
            }
            assert_eq!(lookups.0.under_way.lock().expect("no panic").len(), 1);
            drop(gate);
            for call in waiting {
                let addresses = call.join().expect("no panic").expect("an answer");
                assert_eq!(addresses, Some(vec![([192, 0, 2, 1], 80).into()]));
            }
        });
        assert_eq!(begun.load(Ordering::SeqCst), 1, "one thread for all calls");
        // A result is not kept: the next call asks again.
        assert!(lookups.addresses("a.example:80", LONG).expect("an answer").is_some());
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        let error = lookups.addresses("b.example:80", LONG).expect_err("it is not known");
        assert_eq!(error.to_string(), "no such name");
    }

    #[test]
    fn an_address_is_not_looked_up() {
        let lookups = HostLookups::with(|_| panic!("it is an address"));
        for address in ["127.0.0.1:80", "[::1]:443"] {
            let expected = address.parse().ok().map(|address| vec![address]);
            assert_eq!(lookups.addresses(address, SHORT).expect("no lookup"), expected);
        }
    }
}
