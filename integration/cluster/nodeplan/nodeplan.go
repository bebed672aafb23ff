// Package nodeplan is what package cluster tells nodeinit: plain data, in JSON.
package nodeplan

// Plan says what a node's mount namespace looks like.
type Plan struct {
	Hostname string
	Address  string // of eth0, with its network's bits
	Gateway  string
	Root     string            // a directory on a disk that becomes the node's root
	ReadOnly map[string]string // mount points within Root, and directories of the machine that are mounted there
	Tunables map[string]string // names below /proc/sys, and files that are mounted over them
}
