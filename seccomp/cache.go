package seccomp

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Cache keeps compiled filters by their profiles' content: the containers of a node use few. Its methods may run at the same time.
type Cache struct {
	machine Machine
	size    int

	mu      sync.Mutex
	filters map[fingerprint]*Filter
	recent  []fingerprint // the last used last; short enough to be searched
}

// fingerprint is a hash of all that Compile looks at in a profile.
type fingerprint [sha256.Size]byte

// NewCache makes a cache of that many filters for that machine.
func NewCache(machine Machine, size int) *Cache {
	return &Cache{machine: machine, size: size, filters: map[fingerprint]*Filter{}}
}

// Compile is the function Compile with memory. The filter is shared and must not be changed.
func (c *Cache) Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	key := fingerprintOf(profile)
	c.mu.Lock()
	defer c.mu.Unlock()
	if filter := c.filters[key]; filter != nil {
		at := slices.Index(c.recent, key)
		c.recent = append(slices.Delete(c.recent, at, at+1), key)
		return filter, nil
	}
	filter, err := Compile(profile, c.machine)
	if err != nil {
		return nil, err
	}
	c.filters[key] = filter
	c.recent = append(c.recent, key)
	if len(c.recent) > c.size {
		delete(c.filters, c.recent[0])
		c.recent = slices.Delete(c.recent, 0, 1)
	}
	return filter, nil
}

// fingerprintOf hashes a profile. Every string and list has its length before it, so that different profiles never read the same.
func fingerprintOf(p *specs.LinuxSeccomp) fingerprint {
	b := make([]byte, 0, 16384)
	number := func(n uint64) { b = binary.AppendUvarint(b, n) }
	text := func(s string) { number(uint64(len(s))); b = append(b, s...) }
	pointer := func(n *uint) {
		if n == nil {
			number(0)
			return
		}
		number(uint64(*n) + 1)
	}
	text(string(p.DefaultAction))
	pointer(p.DefaultErrnoRet)
	text(p.ListenerPath)
	text(p.ListenerMetadata)
	number(uint64(len(p.Architectures)))
	for _, a := range p.Architectures {
		text(string(a))
	}
	if p.Flags == nil {
		number(0)
	} else {
		number(uint64(len(p.Flags)) + 1)
	}
	for _, f := range p.Flags {
		text(string(f))
	}
	number(uint64(len(p.Syscalls)))
	for _, s := range p.Syscalls {
		text(string(s.Action))
		pointer(s.ErrnoRet)
		number(uint64(len(s.Names)))
		for _, n := range s.Names {
			text(n)
		}
		number(uint64(len(s.Args)))
		for _, a := range s.Args {
			number(uint64(a.Index))
			number(a.Value)
			number(a.ValueTwo)
			text(string(a.Op))
		}
	}
	return sha256.Sum256(b)
}
