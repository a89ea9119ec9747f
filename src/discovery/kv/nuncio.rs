//! Our own layout: which object a key belongs to.

use super::strays::Stray;
use crate::names::Name;
use crate::suggest;

/// The folders of the layout.
const FOLDERS: [&str; 7] = ["certificates", "listeners", "middlewares", "routes", "tcp_routes", "udp_routes", "upstreams"];
/// The folder inside an upstream.
const ENDPOINTS: &str = "endpoints";

/// The object that a key belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Listener(Name),
    Route(Name),
    TcpRoute(Name),
    UdpRoute(Name),
    Middleware(Name),
    Certificate(Name),
    Upstream(Name),
    Endpoint { upstream: Name, id: Name },
}

/// Where the key `{prefix}{path}` belongs.
pub(super) fn locate(prefix: &str, path: &str) -> Result<Slot, Stray> {
    let segments: Vec<&str> = path.splitn(5, '/').collect();
    let slot = match *segments.as_slice() {
        ["listeners", name] => Slot::Listener(parse_name(name)?),
        ["routes", name] => Slot::Route(parse_name(name)?),
        ["tcp_routes", name] => Slot::TcpRoute(parse_name(name)?),
        ["udp_routes", name] => Slot::UdpRoute(parse_name(name)?),
        ["middlewares", name] => Slot::Middleware(parse_name(name)?),
        ["certificates", name] => Slot::Certificate(parse_name(name)?),
        ["upstreams", name] => Slot::Upstream(parse_name(name)?),
        ["upstreams", upstream, ENDPOINTS, id] => Slot::Endpoint { upstream: parse_name(upstream)?, id: parse_name(id)? },
        ["upstreams", upstream, folder, id] => {
            let help =
                suggest::nearest(folder, [ENDPOINTS]).map(|known| format!("did you mean `{prefix}upstreams/{upstream}/{known}/{id}`?"));
            return Err(Stray { help, ..Stray::new(format!("an upstream has no `{folder}`")) });
        }
        [folder, ..] => return Err(misplaced(prefix, path, folder)),
        [] => return Err(misplaced(prefix, path, "")),
    };
    Ok(slot)
}

fn parse_name(text: &str) -> Result<Name, Stray> {
    Name::new(text).map_err(|error| Stray::new(error.to_string()))
}

/// Why the key `{prefix}{path}`, which is in `folder`, belongs to no object.
fn misplaced(prefix: &str, path: &str, folder: &str) -> Stray {
    let rest = path.get(folder.len()..).unwrap_or_default();
    match suggest::nearest(folder, FOLDERS) {
        Some("upstreams") if folder == "upstreams" => Stray::new("below an upstream there is nothing but its endpoints")
            .help(format!("the keys of an upstream are `{prefix}upstreams/NAME` and `{prefix}upstreams/NAME/{ENDPOINTS}/ID`")),
        Some(known) if folder == known => Stray::new(format!("the key is not of the form `{known}/NAME`"))
            .help(format!("write `{prefix}{known}/NAME`, without further `/`")),
        Some(known) => Stray::new(format!("there is no `{folder}`")).help(format!("did you mean `{prefix}{known}{rest}`?")),
        None => Stray::new(format!("there is no `{folder}`")).help(format!("below `{prefix}` there are: {}", FOLDERS.join(", "))),
    }
}
