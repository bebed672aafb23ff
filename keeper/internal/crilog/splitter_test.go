package crilog

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// plain is the splitter as one would write it without a thought for speed: the reference.
func plain(input string, max int) string {
	var out strings.Builder
	for input != "" {
		line, rest, whole := strings.Cut(input, "\n")
		for len(line) > max {
			out.WriteString("T stdout P " + line[:max] + "\n")
			line = line[max:]
		}
		switch {
		case whole:
			out.WriteString("T stdout F " + line + "\n")
		case line != "":
			out.WriteString("T stdout P " + line + "\n")
		}
		input = rest
	}
	return out.String()
}

// split runs the splitter over input cut into pieces, as reads cut it, with a small buffer, and is re-made half-way, as an upgrade does.
func split(input []byte, max int, cut func(left int) int) string {
	var out bytes.Buffer
	s := NewSplitter("stdout", max, nil)
	buf := make([]byte, 0, max+overhead)
	prefix := []byte("T stdout ")
	for n := 0; len(input) > 0; n++ {
		k := cut(len(input))
		chunk := input[:k]
		for len(chunk) > 0 {
			var lines []byte
			lines, chunk = s.Format(buf[:0], chunk, prefix)
			out.Write(lines)
		}
		input = input[k:]
		if n == 3 {
			s = NewSplitter("stdout", max, s.Pending())
		}
	}
	out.Write(s.Finish(nil, prefix))
	return out.String()
}

func TestSplitterProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		input := make([]byte, r.IntN(300))
		for i := range input {
			input[i] = "ab\n"[r.IntN(3)]
		}
		max := 1 + r.IntN(20)
		got := split(input, max, func(left int) int { return 1 + r.IntN(left) })
		if want := plain(string(input), max); got != want {
			t.Fatalf("input %q, max %d:\ngot  %q\nwant %q", input, max, got, want)
		}
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte("one\ntwo"), uint16(3), uint8(2))
	f.Add([]byte("\n\n"), uint16(1), uint8(1))
	f.Fuzz(func(t *testing.T, input []byte, max uint16, step uint8) {
		limit := 1 + int(max)%LargestMaxLine
		got := split(input, limit, func(left int) int { return min(left, 1+int(step)) })
		if want := plain(string(input), limit); got != want {
			t.Fatalf("input %q, max %d:\ngot  %q\nwant %q", input, limit, got, want)
		}
	})
}

func TestPrefix(t *testing.T) {
	at := time.Date(2016, 10, 6, 0, 17, 9, 669794202, time.FixedZone("", 3600))
	if got := string(NewSplitter("stderr", 0, nil).Prefix(nil, at)); got != "2016-10-05T23:17:09.669794202Z stderr " {
		t.Errorf("prefix is %q", got)
	}
}

func TestIdleSplitterHoldsNothing(t *testing.T) {
	s := NewSplitter("stdout", 0, nil)
	s.Format(make([]byte, 0, 1<<10), []byte("begin"), nil)
	s.Format(make([]byte, 0, 1<<10), []byte(" end\n"), nil)
	if cap(s.Pending()) != 0 {
		t.Errorf("holds %d bytes", cap(s.Pending()))
	}
}

func TestLogWithoutFile(t *testing.T) {
	l := NewLog(nil)
	l.Write([]byte("forgotten\n"))
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	l.SetFile(file)
	l.Write([]byte("kept\n"))
	l.Close()
	l.Write([]byte("forgotten\n"))
	if data, err := os.ReadFile(file.Name()); err != nil || string(data) != "kept\n" {
		t.Errorf("log is %q, %v", data, err)
	}
}

func BenchmarkFormat(b *testing.B) {
	chunk := bytes.Repeat(append(bytes.Repeat([]byte("x"), 99), '\n'), 2600)
	s, out := NewSplitter("stdout", 0, nil), make([]byte, 0, 512<<10)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		prefix := s.Prefix(make([]byte, 0, 64), time.Now())
		for rest := chunk; len(rest) > 0; {
			_, rest = s.Format(out[:0], rest, prefix)
		}
	}
}
