package seccomp

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Cache keeps compiled filters by their profiles' content: the containers of a node use few. Its methods may run at the same time.
type Cache struct {
	machine Machine
	size    int

	mu      sync.Mutex
	entries map[[32]byte]*list.Element // of *cached
	recent  *list.List                 // the last used first
}

type cached struct {
	key    [32]byte
	filter *Filter
}

// NewCache makes a cache of that many filters for that machine.
func NewCache(machine Machine, size int) *Cache {
	return &Cache{machine: machine, size: size, entries: map[[32]byte]*list.Element{}, recent: list.New()}
}

// Compile is the function Compile with memory. The filter is shared and must not be changed.
func (c *Cache) Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	key := fingerprint(profile)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		c.recent.MoveToFront(e)
		return e.Value.(*cached).filter, nil
	}
	filter, err := Compile(profile, c.machine)
	if err != nil {
		return nil, err
	}
	c.entries[key] = c.recent.PushFront(&cached{key, filter})
	if c.recent.Len() > c.size {
		oldest := c.recent.Remove(c.recent.Back()).(*cached)
		delete(c.entries, oldest.key)
	}
	return filter, nil
}

// fingerprint hashes all that Compile looks at. Every string and list has its length before it, so that different profiles never read the same.
func fingerprint(p *specs.LinuxSeccomp) [32]byte {
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
