//! What commands hold in memory: tokens, AWS credentials, private keys.

use rustix::process::{Resource, Rlimit, setrlimit};

/// No core dump, of this process or of those it starts, and no debugger of the same user: what is in
/// memory stays there.
pub(super) fn keep_to_ourselves() {
    // Where the kernel refuses, we are no worse off than every other program.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
