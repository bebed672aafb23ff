package runtime

import (
	"fmt"
	"net"
	"os"
	"testing"
)

func TestProcessUsage(t *testing.T) {
	before, err := processUsage(t.Context(), "/proc", []int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if before.OpenFiles == nil || *before.OpenFiles == 0 {
		t.Errorf("the limit of open files is %v", before.OpenFiles)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: t.TempDir() + "/socket", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	// A process that is gone counts for nothing.
	after, err := processUsage(t.Context(), "/proc", []int{1 << 30, os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if after.Sockets != before.Sockets+1 || after.Descriptors <= before.Descriptors {
		t.Errorf("with one more socket: from %+v to %+v", before, after)
	}
}

func TestOpenFiles(t *testing.T) {
	const head = "Limit                     Soft Limit           Hard Limit           Units     \n"
	for text, wanted := range map[string]string{
		head + "Max open files            1024                 4096                 files     \n":         "1024",
		head + "Max open files            unlimited            unlimited            files     \n":         "none",
		head + "Max core file size        0                    unlimited            bytes     \nMax open": "none",
		"": "none",
	} {
		got := "none"
		if limit := openFiles([]byte(text)); limit != nil {
			got = fmt.Sprint(*limit)
		}
		if got != wanted {
			t.Errorf("%q: %s, not %s", text, got, wanted)
		}
	}
}
