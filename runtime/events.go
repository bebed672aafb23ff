package runtime

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// eventBacklog is how many events a reader may be behind before it is cut off: it must list again anyway.
const eventBacklog = 1000

// broadcaster hands every event to every reader. A slow reader is cut off, never waited for.
type broadcaster struct {
	mu      sync.Mutex
	readers map[chan Event]struct{}
}

// Events delivers every event from now on, until ctx ends or the reader has fallen too far behind: then the channel is closed.
func (r *Runtime) Events(ctx context.Context) (<-chan Event, error) {
	select {
	case <-r.stopping:
		return nil, fmt.Errorf("the runtime is shutting down: %w", errdefs.ErrUnavailable)
	default:
	}
	reader := r.events.subscribe()
	context.AfterFunc(ctx, func() { r.events.unsubscribe(reader) })
	return reader, nil
}

func (b *broadcaster) subscribe() chan Event {
	reader := make(chan Event, eventBacklog)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers == nil {
		b.readers = make(map[chan Event]struct{})
	}
	b.readers[reader] = struct{}{}
	return reader
}

func (b *broadcaster) unsubscribe(reader chan Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.readers[reader]; ok {
		delete(b.readers, reader)
		close(reader)
	}
}

func (b *broadcaster) anyone() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.readers) > 0
}

func (b *broadcaster) send(event Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for reader := range b.readers {
		select {
		case reader <- event:
		default:
			delete(b.readers, reader)
			close(reader)
		}
	}
}

// announce tells that a container (or, with c nil, a sandbox) has changed. It costs nothing when nobody listens.
func (r *Runtime) announce(kind EventType, s *sandbox, c *container) {
	if !r.events.anyone() {
		return
	}
	// A sandbox that was removed is told with its last status: from there the kubelet takes which pod it was, and leaves out events without.
	status := s.status()
	event := Event{Type: kind, ContainerID: string(s.id), Time: time.Now(), Sandbox: &status}
	if c != nil {
		event.ContainerID = string(c.id)
	}
	for _, member := range s.members() {
		event.Containers = append(event.Containers, member.status())
	}
	r.events.send(event)
}
