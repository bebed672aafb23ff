package containerlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/fsnotify/fsnotify"
)

const (
	// block is how much is read at once when the last lines are searched.
	block = 32 << 10
	// look is how long a silent log is waited for before it is asked whether the container still runs.
	look = time.Second
	// poll is how often a log is looked at where the kernel has no more inotify instances to give (128 for each user by default).
	poll = 200 * time.Millisecond
)

// Options say what of a log is wanted. Nil and zero: all of it.
type Options struct {
	Tail       *int64    // so many lines from the end
	Limit      *int64    // so many bytes, times included
	Since      time.Time // nothing before
	Timestamps bool      // the time before each line
}

// Output is where it goes. A stream that is nil is not wanted.
type Output struct {
	Stdout, Stderr io.Writer
	Flush          func() // called when there is nothing more to read for now; may be nil
}

// Read copies what is there of a log.
func Read(ctx context.Context, path string, options Options, output Output) error {
	r, err := open(path, options, output)
	if err != nil {
		return err
	}
	defer r.close()
	size, err := r.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading log %s: %w", path, err)
	}
	if err := r.start(size); err != nil {
		return err
	}
	r.reader.Reset(io.LimitReader(r.file, size-r.begin)) // what is written from now on would shift the last lines
	if _, err := r.drain(ctx, true); err != nil {
		return done(err)
	}
	return nil
}

// Follow copies what is there of a log, and what is written to it, until running says that the container has ended, or the context ends.
// running is asked about once a second, and only while nothing is written; an error of it ends the copy.
func Follow(ctx context.Context, path string, options Options, output Output, running func(context.Context) (bool, error)) error {
	r, err := open(path, options, output)
	if err != nil {
		return err
	}
	defer r.close()
	size, err := r.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading log %s: %w", path, err)
	}
	if err := r.start(size); err != nil {
		return err
	}
	wake, stop := watch(path)
	defer stop()
	quiet := true // nothing came since it was last looked; a container may have ended long ago
	for ended := false; ; {
		wrote, err := r.drain(ctx, ended)
		if err != nil {
			return done(err)
		}
		rotated, err := r.rotate(ctx)
		if err != nil {
			return done(err)
		}
		if wrote || rotated {
			continue
		}
		if ended {
			return nil // asked first, read to the end after
		}
		if quiet {
			alive, err := running(ctx)
			if err != nil {
				return err
			}
			if ended = !alive; ended {
				continue
			}
		}
		if quiet, err = wait(ctx, wake); err != nil {
			return err
		}
	}
}

// wait returns when something was written, or, with true, when nothing was for a while.
func wait(ctx context.Context, wake <-chan struct{}) (bool, error) {
	timer := time.NewTimer(look)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-wake:
		return false, nil
	case <-timer.C:
		return true, nil
	}
}

// watch tells of changes in a log's directory, where a rotation shows too. What is told while nobody listens is told once.
func watch(path string) (wake <-chan struct{}, stop func()) {
	told := make(chan struct{}, 1)
	tell := func() {
		select {
		case told <- struct{}{}:
		default:
		}
	}
	tell() // what was written before the watch
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		if err = watcher.Add(filepath.Dir(path)); err != nil {
			watcher.Close()
		}
	}
	if err != nil {
		ticker, end := time.NewTicker(poll), make(chan struct{})
		go func() {
			for {
				select {
				case <-ticker.C:
					tell()
				case <-end:
					return
				}
			}
		}()
		return told, func() { ticker.Stop(); close(end) }
	}
	go func() {
		errs := watcher.Errors
		for {
			select {
			case _, ok := <-watcher.Events:
				if !ok {
					return
				}
			case _, ok := <-errs:
				if !ok {
					errs = nil
					continue
				}
			}
			tell()
		}
	}()
	return told, func() { watcher.Close() }
}

type reader struct {
	path    string
	file    *os.File
	reader  *bufio.Reader
	options Options
	output  Output
	begin   int64
	left    int64 // bytes that may still be written; negative: any number
	rest    []byte
	inside  bool // the last line was a part: its continuation has no time of its own
}

// open resolves links first: a rotation replaces what they lead to.
func open(path string, options Options, output Output) (*reader, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, wrap(path, err)
	}
	file, err := os.Open(resolved)
	if err != nil {
		return nil, wrap(path, err)
	}
	r := &reader{path: resolved, file: file, reader: bufio.NewReaderSize(file, block), options: options, output: output, left: -1}
	if options.Limit != nil {
		r.left = *options.Limit
	}
	return r, nil
}

func wrap(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening log %s: %w: %w", path, err, errdefs.ErrNotFound)
	}
	return fmt.Errorf("opening log %s: %w", path, err)
}

func (r *reader) close() { r.file.Close() }

// errLimit ends a copy whose limit is reached.
var errLimit = errors.New("limit reached")

func done(err error) error {
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// start goes to where the wanted lines begin.
func (r *reader) start(size int64) error {
	begin := int64(0)
	if r.options.Tail != nil {
		var err error
		if begin, err = tail(r.file, size, *r.options.Tail); err != nil {
			return fmt.Errorf("searching for the last lines of log %s: %w", r.path, err)
		}
	}
	if _, err := r.file.Seek(begin, io.SeekStart); err != nil {
		return fmt.Errorf("reading log %s: %w", r.path, err)
	}
	r.begin = begin
	return nil
}

// tail is the offset of the last n lines. A last line without its newline counts as none, as it does for the kubelet: it is still being written.
func tail(file io.ReaderAt, size, n int64) (int64, error) {
	if n < 0 {
		return 0, nil
	}
	buffer := make([]byte, block)
	for end := size; end > 0; {
		begin := max(0, end-block)
		piece := buffer[:end-begin]
		if _, err := file.ReadAt(piece, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(piece) - 1; i >= 0; i-- {
			if piece[i] != '\n' {
				continue
			}
			if n == 0 {
				return begin + int64(i) + 1, nil
			}
			n--
		}
		end = begin
	}
	return 0, nil
}

// drain copies what can be read, and says whether there was anything. An unfinished line is kept until the rest of it is there, or, at the last time,
// copied as it is.
func (r *reader) drain(ctx context.Context, last bool) (bool, error) {
	some := false
	defer func() {
		if r.output.Flush != nil {
			r.output.Flush()
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return some, err
		}
		raw, err := r.reader.ReadBytes('\n')
		some = some || len(raw) > 0
		if len(r.rest) > 0 {
			raw, r.rest = append(r.rest, raw...), nil
		}
		switch {
		case errors.Is(err, io.EOF):
			if !last {
				r.rest = raw
				return some, nil
			}
			if len(raw) > 0 {
				return some, r.copy(raw)
			}
			return some, nil
		case err != nil:
			return some, fmt.Errorf("reading log %s: %w", r.path, err)
		}
		if err := r.copy(raw); err != nil {
			return some, err
		}
	}
}

// copy writes one line, if it is wanted. A line that is not one of CRI's is left out: a runtime that was killed may leave half of one.
func (r *reader) copy(raw []byte) error {
	line, err := Parse(raw)
	if err != nil {
		return nil //nolint:nilerr // as the comment says
	}
	if line.Time.Before(r.options.Since) {
		return nil
	}
	out := r.output.Stdout
	if line.Stream == Stderr {
		out = r.output.Stderr
	}
	if out == nil {
		return nil
	}
	text := line.Text
	if r.options.Timestamps && !r.inside {
		text = append(line.Time.AppendFormat(nil, timestamp), ' ')
		text = append(text, line.Text...)
	}
	r.inside = !bytes.HasSuffix(text, []byte{'\n'})
	if r.left >= 0 && int64(len(text)) > r.left {
		text = text[:r.left]
	}
	if _, err := out.Write(text); err != nil {
		return fmt.Errorf("passing on log %s: %w", r.path, err)
	}
	if r.left >= 0 {
		if r.left -= int64(len(text)); r.left == 0 {
			return errLimit
		}
	}
	return nil
}

// rotate goes on with the file that has taken the place of the one being read. The runtime opens it when it is told that the old one was renamed, and
// writes nothing to that any more: what it had written is read here first.
func (r *reader) rotate(ctx context.Context) (bool, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between renaming and reopening, or removed
	} else if err != nil {
		return false, fmt.Errorf("looking at log %s: %w", r.path, err)
	}
	before, err := r.file.Stat()
	if err != nil {
		return false, fmt.Errorf("looking at log %s: %w", r.path, err)
	}
	if os.SameFile(now, before) {
		return false, nil
	}
	file, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, wrap(r.path, err)
	}
	_, err = r.drain(ctx, true)
	r.file.Close()
	r.file = file
	r.reader.Reset(file)
	return true, err
}
