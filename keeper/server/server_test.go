package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper/internal/wire"
)

func record(op, value int32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(op))
	return binary.LittleEndian.AppendUint32(b, uint32(value))
}

func TestReadReport(t *testing.T) {
	join := func(records ...[]byte) []byte { return bytes.Join(records, nil) }
	tests := map[string]struct {
		report []byte
		said   report
		op     int // of the launch error; -1: another error; -2: none
	}{
		"success":        {report: nil, op: -2},
		"reparented":     {report: record(-1, 77), said: report{pid: 77}, op: -2},
		"failed":         {report: record(3, 13), op: 3},
		"failed at 0":    {report: record(0, 1), op: 0},
		"failed later":   {report: join(record(-1, 77), record(9, 2)), said: report{pid: 77}, op: 9},
		"first counts":   {report: join(record(9, 2), record(8, 1)), op: 9},
		"torn":           {report: record(3, 13)[:5], op: -1},
		"one in between": {report: join(record(-2, 76), record(-1, 77)), said: report{pid: 77, between: 76}, op: -2},
		"late":           {report: join(record(-1, 77), record(-2, 76)), said: report{pid: 77, between: 76}, op: -2},
		"two pids":       {report: join(record(-1, 77), record(-1, 78)), op: -1},
		"two in between": {report: join(record(-2, 77), record(-2, 78)), op: -1},
		"negative pid":   {report: record(-1, -5), op: -1},
		"unknown record": {report: record(-3, 1), op: -1},
		"endless":        {report: bytes.Repeat(record(1, 1), 1000), op: -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			said, err := readReport(bytes.NewReader(test.report))
			var launch *launchError
			switch {
			case test.op == -2 && (err != nil || said != test.said):
				t.Errorf("%+v, %v", said, err)
			case test.op == -1 && (err == nil || errors.As(err, &launch)):
				t.Errorf("error %v", err)
			case test.op >= 0 && (!errors.As(err, &launch) || launch.op != test.op):
				t.Errorf("error %v", err)
			}
		})
	}
}

// FuzzRequest hands the handlers whatever bytes and kinds there are, with a descriptor, and checks that it does not stay open.
func FuzzRequest(f *testing.F) {
	seed := func(kind wire.Kind, build func(e *wire.Encoder)) {
		e := &wire.Encoder{}
		build(e)
		f.Add(uint8(kind), e.Body)
	}
	seed(wire.List, func(e *wire.Encoder) { e.String("") })
	seed(wire.Signal, func(e *wire.Encoder) { e.String("a"); e.Int32(15) })
	seed(wire.Resize, func(e *wire.Encoder) { e.String("a"); e.Uint16(1); e.Uint16(2) })
	seed(wire.Adopt, func(e *wire.Encoder) { e.String("a"); e.Bool(false); e.Bool(true) })
	seed(wire.Attach, func(e *wire.Encoder) { e.String("a"); e.Bool(true); e.Bool(false); e.Bool(false) })
	seed(wire.Start, func(e *wire.Encoder) {
		e.String("a")
		e.Bool(false)
		e.Bool(false)
		e.Bool(false)
		e.Bool(true)
		e.Bool(false)
		e.Uint16(300)
	})
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		if k := wire.Kind(kind); k == wire.Upgrade || k == wire.Shutdown {
			return
		}
		s := newServer(Options{Log: log.New(io.Discard, "", 0)})
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(pipe[0]) }()
		c := &client{server: s}
		reply, then, err := c.handle(t.Context(), wire.Message{Kind: wire.Kind(kind), Body: body, Descriptors: []int{pipe[1]}})
		_, _, _ = reply, then, err
		for _, p := range s.processes {
			p.release()
		}
		for end := time.Now().Add(5 * time.Second); pollNow(pipe[0], unix.POLLHUP) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("kind %d, body %q, error %v: the descriptor stays open", kind, body, err)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	s := newServer(Options{})
	s.listener = os.Stdin
	s.processes["a"] = &process{id: "a", exit: &exit{}}
	state, _ := s.encodeState()
	f.Add(state)
	f.Fuzz(func(_ *testing.T, body []byte) { _, _ = decodeState(body) })
}

func TestStateRoundTrip(t *testing.T) {
	s := newServer(Options{})
	s.instance, s.listener = "me", os.Stdin
	at := time.Unix(5, 6)
	s.processes["a"] = &process{id: "a", pid: 7, startedAt: at, killOnDisconnect: true, exit: &exit{status: status{code: 137, signal: 9}, at: at}}
	state, keep := s.encodeState()
	got, err := decodeState(state)
	if err != nil || got.instance != "me" || len(got.processes) != 1 || len(keep) != 1 {
		t.Fatalf("state %+v, keeping %v, %v", got, keep, err)
	}
	p := got.processes[0]
	if p.id != "a" || p.pid != 7 || p.pidfd != -1 || !p.killOnDisconnect || p.exit == nil || p.exit.code != 137 || !p.exit.at.Equal(at) {
		t.Errorf("process %+v, exit %+v", p, p.exit)
	}
	if _, err := decodeState(state[:len(state)-1]); err == nil {
		t.Error("a torn state is accepted")
	}
}

// A full reply counts: more processes than one page lists.
func TestListPages(t *testing.T) {
	s := newServer(Options{})
	for i := range listPage + 50 {
		id := string(rune('a'+i%26)) + string(rune('a'+i/26))
		s.processes[id] = &process{id: id, exit: &exit{}}
	}
	e, err := s.list("")
	if err != nil {
		t.Fatal(err)
	}
	d := wire.NewDecoder(e.Body, nil)
	if more, n := d.Bool(), d.Uint16(); !more || n != listPage {
		t.Errorf("first page: more %v, %d", more, n)
	}
}
