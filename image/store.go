package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/image/overlay"
)

// Options configure a store.
type Options struct {
	Root                string   // durable, absolute: images, layers, writable layers
	StateDir            string   // for an empty directory to mount on in namespaces of our own; "" takes Root
	CertsDir            string   // certs.d, with <host>/hosts.toml; read at each pull; "" for none
	Pinned              []string // images that clients should not remove on their own account, such as "registry.k8s.io/pause:3.10"
	MaxConcurrentLayers int      // downloaded and unpacked side by side, in all pulls together; 0: 3
	StallTimeout        time.Duration
	Logger              *slog.Logger
}

// Store keeps images, layers and writable layers below one directory:
//
//	images/<hex>/{record.json,config,manifest}   durable
//	layers/<hex of diff ID>/{fs,layer.json}      durable; shared by all images that have the layer
//	layers/chain-<hex of chain ID>/...           a layer whose content depends on those below it
//	containers/<key>/{upper,work,record.json}    not durable: as long as the boot
//	tmp/, trash/                                 being made, being removed
//	empty/{a,b}                                  lower directories of images without layers
//
// What stands under its final name is whole: it was synced before it was renamed. All else is removed at the next start.
type Store struct {
	opts    Options
	log     *slog.Logger
	lock    *os.File
	root    *os.File
	mounter *overlay.Mounter
	pinned  map[string]bool

	// view is what readers see; it is replaced whole, under mu.
	view atomic.Pointer[view]

	// images changes are serialized by commit, and reach the disk under it; mu is held for moments only, so that starting a container never
	// waits for a disk.
	commit sync.Mutex
	mu     sync.Mutex
	images map[ID]*record
	layers map[string]*layerState
	owners map[string]*containerState

	usage    usageCache
	pulls    flights[Image]
	fetches  flights[*fetched]
	slots    chan struct{}
	tmpCount atomic.Uint64

	background context.Context // the store's own life
	stop       context.CancelFunc
	working    sync.WaitGroup
	trashWake  chan struct{}
}

// view is the index as readers see it. It never changes.
type view struct {
	images []Image // sorted by ID
	names  map[string]ID
	byID   map[ID]int
}

const defaultConcurrentLayers = 3

// Open opens the store below opts.Root, and makes it if it is not there. A damaged record is set aside and logged; it never keeps the store
// from opening. ErrFailedPrecondition when another process has it open.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if !filepath.IsAbs(opts.Root) {
		return nil, fmt.Errorf("opening the image store: root %q is not an absolute path: %w", opts.Root, errdefs.ErrInvalidArgument)
	}
	if opts.MaxConcurrentLayers < 0 {
		return nil, fmt.Errorf("opening the image store: %d layers side by side: %w", opts.MaxConcurrentLayers, errdefs.ErrInvalidArgument)
	}
	if opts.MaxConcurrentLayers == 0 {
		opts.MaxConcurrentLayers = defaultConcurrentLayers
	}
	if opts.StateDir == "" {
		opts.StateDir = opts.Root
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		opts: opts, log: opts.Logger,
		pinned: map[string]bool{}, images: map[ID]*record{}, layers: map[string]*layerState{}, owners: map[string]*containerState{},
		slots: make(chan struct{}, opts.MaxConcurrentLayers), trashWake: make(chan struct{}, 1),
	}
	for _, name := range opts.Pinned {
		ref, err := parseReference(name)
		if err != nil {
			return nil, fmt.Errorf("opening the image store: pinned images: %w", err)
		}
		s.pinned[ref.String()] = true
	}
	if err := s.open(ctx); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("opening the image store %s: %w", opts.Root, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	place := filepath.Join(s.opts.StateDir, "image-mount")
	for _, dir := range []string{s.opts.Root, s.path("images"), s.path("layers"), s.path("containers"), s.path("tmp"), s.path("trash"), s.path("empty", "a"), s.path("empty", "b"), place} {
		// 0711: the kernel checks the way to a lower directory with the mounter's credentials only, and nobody needs to list these.
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	var err error
	if s.lock, err = lockFile(s.path("lock")); err != nil {
		return err
	}
	if s.root, err = os.Open(s.opts.Root); err != nil {
		return err
	}
	if s.mounter, err = overlay.New(place); err != nil {
		return err
	}
	// What was being made when the last process died goes the way of all removed things.
	if err := s.discardAll(s.path("tmp")); err != nil {
		return err
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	s.background, s.stop = context.WithCancel(context.Background())
	s.working.Go(s.emptyTrash)
	s.wakeTrash()
	return nil
}

// lockFile keeps a second process away from the same store.
func lockFile(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process has it open (each shimd needs a --root of its own): %w", errdefs.ErrFailedPrecondition)
		}
		return nil, err
	}
	return f, nil
}

// Close ends background work and pulls. Mounts that were handed out live on.
func (s *Store) Close() error {
	s.stop()
	s.pulls.cancelAll()
	s.fetches.cancelAll()
	s.working.Wait()
	s.closeFiles()
	return nil
}

func (s *Store) closeFiles() {
	for _, f := range []*os.File{s.root, s.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Root is the directory that the store stands in.
func (s *Store) Root() string { return s.opts.Root }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.opts.Root}, elem...)...)
}

// publish makes what changed visible to readers. mu is held.
func (s *Store) publish() {
	v := &view{names: map[string]ID{}, byID: map[ID]int{}}
	for _, r := range s.images {
		pinned := false
		for _, tag := range r.Tags {
			v.names[tag] = r.ID
			pinned = pinned || s.pinned[tag]
		}
		for _, d := range r.Digests {
			v.names[d.Name] = r.ID
			pinned = pinned || s.pinned[d.Name]
		}
		v.images = append(v.images, r.image(pinned))
	}
	sort.Slice(v.images, func(i, j int) bool { return v.images[i].ID < v.images[j].ID })
	for i := range v.images {
		v.byID[v.images[i].ID] = i
	}
	s.view.Store(v)
}
