// Package translate turns CRI's messages into the runtime's own words and back.
//
// Everything here is pure: no file is opened, no call is made, nothing is logged. Requests come from a client that may pass on what
// somebody else wrote (a pod's sysctls, an annotation, a mount path), so each field is either taken over or refused by an error that
// names it the way api.proto does ("config.linux.sysctls[...]"). What can only be decided by looking at the machine, such as
// whether a path exists or a cgroup parent fits the driver, belongs to package runtime.
package translate
