package streaming

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/shimd/shimd/runtime"
)

// upgrade opens a stream's connection by hand, to say things on it that no library would.
func upgrade(t *testing.T, url string, header http.Header) *net.TCPConn {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	address, err := net.ResolveTCPAddr("tcp", req.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTCP("tcp", nil, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := req.Write(c); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req) //nolint:bodyclose // an upgrade has no body
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	return c
}

// A frame says how long it is, or how many entries it has. What a client claims must not decide how much memory is taken.
func TestCVE_2026_35469_FramesAreReadInBoundedMemory(t *testing.T) {
	settings := binary.BigEndian.AppendUint32(nil, 0x8003_0004) // SPDY/3 control frame, SETTINGS
	settings = binary.BigEndian.AppendUint32(settings, 4)       // no flags, 4 bytes
	settings = binary.BigEndian.AppendUint32(settings, 1<<32-1) // entries
	longest := binary.BigEndian.AppendUint32(nil, 0x8003_0001)  // SYN_STREAM
	longest = binary.BigEndian.AppendUint32(longest, 1<<24-1)   // of the greatest length there is
	message := append([]byte{0x82, 0xff}, make([]byte, 8+4)...) // WebSocket: binary, masked, 64 bits of length
	binary.BigEndian.PutUint64(message[2:], 1<<40)              // a terabyte
	spdyHeader := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {remotecommand.StreamProtocolV4Name}}
	wsHeader := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		"Sec-Websocket-Protocol": {"v4.channel.k8s.io"}, "Origin": {"http://localhost"}}
	for _, c := range []struct {
		name   string
		header http.Header
		frame  []byte
	}{{"SPDY entries", spdyHeader, settings}, {"SPDY length", spdyHeader, longest}, {"WebSocket length", wsHeader, message}} {
		t.Run(c.name, func(t *testing.T) {
			s := listen(t, &scripted{exec: func(ctx context.Context, _ []string, _ runtime.Streams) (int32, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			}})
			s.creation = time.Second
			url, err := s.Exec(&criv1.ExecRequest{ContainerId: "c", Cmd: []string{"cat"}, Stdin: true})
			if err != nil {
				t.Fatal(err)
			}
			conn := upgrade(t, url, c.header)
			var before, after goruntime.MemStats
			goruntime.ReadMemStats(&before)
			if _, err := conn.Write(append(c.frame, strings.Repeat("x", 4096)...)); err != nil {
				t.Fatal(err)
			}
			_ = conn.CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second)) // for the frame to be read; the connection may stay a while longer
			_, _ = io.Copy(io.Discard, conn)
			goruntime.ReadMemStats(&after)
			if taken := after.TotalAlloc - before.TotalAlloc; taken > 64<<20 {
				t.Errorf("a frame of %d bytes took %s", len(c.frame), fmt.Sprint(taken>>20, " MiB"))
			}
		})
	}
}
