//! The value of an instance in any dialect: it is an address that can be connected to, none, or a problem that can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::config::Endpoint;
use nuncio::discovery::kv::dialect;

fuzz_target!(|bytes: &[u8]| match dialect::decode(bytes) {
    Ok(Some(instance)) => {
        let Endpoint { address, weight } = instance.endpoint;
        assert!(address.ip().is_some_and(|address| address.port() != 0 && !address.ip().to_canonical().is_unspecified()));
        assert!(weight <= Endpoint::WEIGHT_MAX);
        let again = dialect::decode(address.to_string().as_bytes()).ok().flatten();
        assert_eq!(again.map(|instance| instance.endpoint.address), Some(address));
    }
    Ok(None) => {}
    Err(problem) => assert!(!problem.message.is_empty() && problem.render(false).contains("error")),
});
