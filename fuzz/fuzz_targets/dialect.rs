//! The value of an instance in any dialect: it is an address that can be connected to, or the name of a host, none, or a problem that can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::config::Endpoint;
use nuncio::config::address::{Address, is_host};
use nuncio::discovery::kv::dialect;

fuzz_target!(|bytes: &[u8]| match dialect::decode(bytes) {
    Ok(Some(instance)) => {
        let Endpoint { address, weight, .. } = instance.endpoint;
        match &address {
            Address::Ip(address) => assert!(address.port() != 0 && !address.ip().to_canonical().is_unspecified()),
            Address::Name(name) => assert!(name.port != 0 && is_host(&name.host)),
            Address::Unix(path) => panic!("{path} is of another machine"),
        }
        assert!(weight <= Endpoint::WEIGHT_MAX);
        let again = dialect::decode(address.to_string().as_bytes()).ok().flatten();
        assert_eq!(again.map(|instance| instance.endpoint.address), Some(address));
    }
    Ok(None) => {}
    Err(problem) => assert!(!problem.message.is_empty() && problem.render(false).contains("error")),
});
