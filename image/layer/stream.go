package layer

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The limits that a layer meets unless the caller sets others. They are far beyond any real image: they exist so that a small hostile blob
// cannot fill the disk's inodes or keep a pull busy for ever. The disk's own size is the limit on honest content.
const (
	DefaultMaxEntries = 10_000_000
	DefaultMaxBytes   = 1 << 40

	// maxZstdWindow bounds the memory of one decoder: the format allows windows of terabytes, zstd's own tool stops at 128 MiB by default.
	maxZstdWindow = 128 << 20

	streamBuffer = 256 << 10
)

// Source describes the blob that is unpacked.
type Source struct {
	Digest string // of the blob as it comes, "sha256:..."; checked
	Size   int64  // of the blob, checked
	DiffID string // of the decompressed tar, "sha256:..."; checked

	MaxEntries int64 // 0: DefaultMaxEntries
	MaxBytes   int64 // of all files together; 0: DefaultMaxBytes
}

// Result is what stands in the directory after unpacking.
type Result struct {
	Bytes   int64 // of regular files
	Entries int64 // files, directories, links, devices
	Root    bool  // the layer says of what owner and mode its root is
	// Deferred is what only the layers below can answer; nil for a layer that stands by itself.
	Deferred *Deferred
}

// Unpack reads the blob from r and unpacks it into dir, which is empty and nobody else's. On error the directory's content is worthless;
// the caller removes it. The kind of the error is ErrInvalidArgument when the content is at fault, and r's own when reading failed.
func Unpack(ctx context.Context, dir *os.File, r io.Reader, src Source) (Result, error) {
	if src.MaxEntries == 0 {
		src.MaxEntries = DefaultMaxEntries
	}
	if src.MaxBytes == 0 {
		src.MaxBytes = DefaultMaxBytes
	}
	blob := &measured{r: r, limit: src.Size, digest: sha256.New()}
	tarball, closeDecoder, err := decompress(blob)
	if err != nil {
		return Result{}, explain(blob, err)
	}
	content := &measured{r: tarball, limit: src.MaxBytes + src.MaxEntries*4096, digest: sha256.New()}
	ahead := readAhead(ctx, content)

	u, err := newUnpacker(dir, src.MaxEntries, src.MaxBytes)
	if err == nil {
		err = u.run(ctx, ahead)
		u.close()
	}
	if err == nil {
		// Padding and whatever follows the end of the archive belong to the digests, too.
		_, err = io.Copy(io.Discard, ahead)
	}
	if err != nil {
		blob.close() // so that nothing waits for a slow registry's next byte
	}
	ahead.stop()
	closeDecoder()
	if err == nil {
		_, err = io.Copy(io.Discard, blob)
	}
	if err != nil {
		return Result{}, explain(blob, err)
	}
	if err := blob.check("blob", src.Digest, src.Size); err != nil {
		return Result{}, err
	}
	if err := content.check("content", src.DiffID, -1); err != nil {
		return Result{}, err
	}
	return u.result(), nil
}

// explain prefers the reason why the source could not be read over what the decoder made of the truncated data, and gives what is wrong
// with the content its kind.
func explain(blob *measured, err error) error {
	if blob.err != nil {
		return fmt.Errorf("reading the layer's blob: %w", blob.err)
	}
	var malformed flate.CorruptInputError
	switch {
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &malformed), isZstdError(err):
		return fmt.Errorf("decompressing the layer: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

func isZstdError(err error) bool {
	for _, kind := range []error{zstd.ErrMagicMismatch, zstd.ErrCRCMismatch, zstd.ErrWindowSizeExceeded, zstd.ErrWindowSizeTooSmall,
		zstd.ErrDecoderSizeExceeded, zstd.ErrReservedBlockType, zstd.ErrCompressedSizeTooBig, zstd.ErrBlockTooSmall, zstd.ErrUnexpectedBlockSize} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// decompress looks at the first bytes, not at the media type: registries and builders get that wrong, the bytes do not lie.
func decompress(r io.Reader) (io.Reader, func(), error) {
	buffered := bufio.NewReaderSize(r, streamBuffer)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return buffered, func() {}, nil
}

// measured hashes and counts what passes, and ends the stream with an error once it is longer than announced.
type measured struct {
	r      io.Reader
	digest hash.Hash
	limit  int64
	n      int64
	err    error // what the underlying reader failed with
	closed atomic.Bool
}

func (m *measured) close() {
	m.closed.Store(true)
	if c, ok := m.r.(io.Closer); ok {
		_ = c.Close()
	}
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.digest.Write(p[:n])
	m.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) && !m.closed.Load() {
		m.err = err
	}
	if m.n > m.limit {
		m.err = fmt.Errorf("more than the %d bytes announced or allowed: %w", m.limit, errdefs.ErrInvalidArgument)
		return 0, m.err
	}
	return n, err
}

func (m *measured) check(what, want string, size int64) error {
	if size >= 0 && m.n != size {
		return fmt.Errorf("the layer's %s has %d bytes, not %d as announced: %w", what, m.n, size, errdefs.ErrInvalidArgument)
	}
	if got := "sha256:" + hex.EncodeToString(m.digest.Sum(nil)); got != want {
		return fmt.Errorf("the layer's %s has digest %s, not %s: %w", what, got, want, errdefs.ErrInvalidArgument)
	}
	return nil
}

// aheadReader decompresses on a goroutine of its own while files are written: that is what makes use of the second core.
type aheadReader struct {
	chunks  chan chunk
	free    chan []byte
	quit    chan struct{}
	current chunk
	rest    []byte
}

type chunk struct {
	data []byte
	err  error
}

func readAhead(ctx context.Context, r io.Reader) *aheadReader {
	const buffers = 4
	a := &aheadReader{chunks: make(chan chunk, buffers), free: make(chan []byte, buffers), quit: make(chan struct{})}
	for range buffers {
		a.free <- make([]byte, streamBuffer)
	}
	go func() {
		defer close(a.chunks)
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-a.quit:
				return
			}
			n, err := io.ReadFull(r, buf[:cap(buf)])
			if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
				err = nil // the next read tells what it was
			}
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			a.chunks <- chunk{data: buf[:n], err: err} // never blocks: there are no more chunks than places
			if err != nil {
				return
			}
		}
	}()
	return a
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.current.err != nil {
			return 0, a.current.err
		}
		if a.current.data != nil {
			a.free <- a.current.data
			a.current.data = nil
		}
		next, open := <-a.chunks
		if !open {
			return 0, io.ErrClosedPipe
		}
		a.current, a.rest = next, next.data
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// stop ends the goroutine and returns when it no longer reads.
func (a *aheadReader) stop() {
	close(a.quit)
	for range a.chunks { // drained so that the goroutine can end
	}
}
