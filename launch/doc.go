// Package launch compiles an OCI runtime spec into a launch program and prepares everything the program refers to.
//
// A launch program is a flat list of system calls that a child of the keeper makes between its clone and its execve: join namespaces, move
// prepared mounts into place, drop rights, load seccomp, execute. Compiling one is a pure function whose result reads like strace output
// (Program.String). It runs in a tiny executable of its own: an interpreter of some 250 bytes of machine code, copied out of this package's assembly into an ELF in a
// sealed memfd, with the program as its data. So nothing of the daemon or the keeper is in the memory of a process that enters a container.
//
// Inside belongs: the program and its text, its interpreter, the compilers for containers and exec sessions, the report that a program writes when it fails.
// Preparing mounts outside of the container is package launch/mounts. Outside belongs: waiting for processes, streams and exit status (package keeper), making specs
// (package runtime/ocispec), root file systems (package image), cgroup limits (package cgroups).
package launch
