package image

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/shimd/shimd/image/layer"
)

// usageAge is how long a measurement of a writable layer serves. Measuring reads every directory of it, so it is done only when somebody
// asks, and not more often.
const usageAge = 10 * time.Second

// usageCache holds the last measurements.
type usageCache struct {
	mu      sync.Mutex
	entries map[string]*usageEntry
}

type usageEntry struct {
	mu            sync.Mutex // one measures, the others wait
	at            time.Time
	bytes, inodes uint64
}

func (u *usageCache) entry(container string) *usageEntry {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.entries == nil {
		u.entries = map[string]*usageEntry{}
	}
	e := u.entries[container]
	if e == nil {
		e = &usageEntry{}
		u.entries[container] = e
	}
	return e
}

func (u *usageCache) forget(container string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.entries, container)
}

// RootfsUsage measures the writable layer: bytes on disk and inodes, at most 10 seconds old.
func (s *Store) RootfsUsage(ctx context.Context, container string) (bytes, inodes uint64, err error) {
	if _, err := s.container(container); err != nil {
		return 0, 0, fmt.Errorf("measuring a writable layer: %w", err)
	}
	e := s.usage.entry(container)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.at.IsZero() && time.Since(e.at) < usageAge {
		return e.bytes, e.inodes, nil
	}
	upper, err := os.Open(s.path("containers", container, "upper"))
	if err != nil {
		return 0, 0, fmt.Errorf("measuring the writable layer of %s: %w", container, err)
	}
	defer upper.Close()
	if bytes, inodes, err = layer.Measure(ctx, upper); err != nil {
		return 0, 0, fmt.Errorf("measuring the writable layer of %s: %w", container, err)
	}
	e.at, e.bytes, e.inodes = time.Now(), bytes, inodes
	return bytes, inodes, nil
}

// FsUsage answers what all layers take, from counters.
func (s *Store) FsUsage(context.Context) (FsUsage, error) {
	u := FsUsage{Timestamp: time.Now(), Mountpoint: s.opts.Root}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.layers {
		u.UsedBytes += uint64(st.bytes)
		u.InodesUsed += uint64(st.inodes)
	}
	return u, nil
}
