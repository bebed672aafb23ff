// Package wire is the protocol between the daemon and the keeper: messages with file descriptors over a SOCK_SEQPACKET unix socket.
//
// Framing, the encoding of fields and the list of message kinds belong here. What a message means, and what is done about it, does not.
//
// A message is one packet, or several when it carries more descriptors than the kernel passes at once (SCM_MAX_FD, 253):
//
//	+------+-------+-------------+---------+--------+------------------+
//	| kind | flags | descriptors | request | length | body ...         |   little endian
//	| u8   | u8    | u16         | u32     | u32    | length bytes     |
//	+------+-------+-------------+---------+--------+------------------+
//
// Both counts repeat what the kernel says anyway; a receiver drops the connection when they differ (CVE-2021-43784 was a length
// that was believed). Requests are numbered by the client and run side by side; a reply carries the number of its request.
//
//	client                                   keeper
//	  | -- Hello{protocol, version} ----------> |
//	  | <--------- Reply{protocol, version...} - |
//	  | <----------------- Exit (unsolicited) -- |   those not acknowledged, then each as it happens
//	  | -- Start, Adopt, Signal, ... ---------> |
//	  | -- Cancel (same request number) ------> |   optional; the request is still answered
//	  | <--------------------- Reply | Failure - |
package wire

// Protocol is the version of the messages. Hello, Upgrade and Shutdown never change, so that any daemon can replace any keeper.
const Protocol = 1

// Limits of what is accepted from the other side.
const (
	maxPacketBody        = 32 << 10
	maxPacketDescriptors = 253 // SCM_MAX_FD
	// MaxBody limits a whole message.
	MaxBody = 1 << 20
	// MaxDescriptors limits a whole message: a pod with some hundred mounts needs one for each.
	MaxDescriptors = 2048
	// MaxString limits IDs and texts.
	MaxString = 4096
)

// Kind says what a message is.
type Kind uint8

// The kinds. Numbers are never used again for something else.
const (
	Hello       Kind = 1
	Upgrade     Kind = 2
	Shutdown    Kind = 3
	Start       Kind = 4
	Adopt       Kind = 5
	Signal      Kind = 6
	Attach      Kind = 7
	Resize      Kind = 8
	SetLog      Kind = 9
	List        Kind = 10
	Acknowledge Kind = 11
	Cancel      Kind = 12

	Reply   Kind = 128
	Failure Kind = 129
	Exit    Kind = 130
)

func (k Kind) known() bool { return k >= Hello && k <= Cancel || k >= Reply && k <= Exit }
