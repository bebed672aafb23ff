package runtime

import (
	"testing"
	"time"

	"github.com/shimd/shimd/runtime/request"
)

// The kubelet takes the first status of a name for the latest attempt.
func TestStatusesOfAPodAreNewestFirst(t *testing.T) {
	s, r := testSandbox()
	created := time.Unix(1_000_000, 0)
	const attempts = 8
	for attempt := range attempts {
		id := ContainerID(rune('a' + attempt))
		s.containers[id] = &container{id: id, sandbox: s, record: containerRecord{
			ID: id, CreatedAt: created.Add(time.Duration(attempt) * time.Nanosecond), Phase: containerExited,
			Config: request.Container{Metadata: request.ContainerMetadata{Name: "main", Attempt: uint32(attempt)}},
		}}
	}
	reader := r.events.subscribe()
	r.announce(EventStopped, s, s.containers["a"])
	_, statuses, err := r.SandboxStatus(t.Context(), s.id, false)
	if err != nil {
		t.Fatal(err)
	}
	for what, list := range map[string][]ContainerStatus{"status": statuses, "event": (<-reader).Containers} {
		if len(list) != attempts {
			t.Fatalf("%s: %d containers", what, len(list))
		}
		for n, c := range list {
			if want := uint32(attempts - 1 - n); c.Config.Metadata.Attempt != want {
				t.Errorf("%s: attempt %d is at place %d, where %d belongs", what, c.Config.Metadata.Attempt, n, want)
			}
		}
	}
}

// The kubelet leaves out events that do not tell the sandbox, and keeps the pod in its cache.
func TestSandboxIsToldWhenItIsDeleted(t *testing.T) {
	s, r := testSandbox()
	reader := r.events.subscribe()
	r.announce(EventDeleted, s, nil)
	event := <-reader
	if event.ContainerID != string(s.id) || event.Sandbox == nil || event.Sandbox.Config.Metadata.UID != "uid" || event.Sandbox.State != SandboxNotReady {
		t.Errorf("the event is %+v", event)
	}
}

func testSandbox() (*sandbox, *Runtime) {
	r := &Runtime{sandboxes: map[SandboxID]*sandbox{}}
	s := r.newSandbox(sandboxRecord{ID: "sandbox", Phase: sandboxStopped, Config: request.Sandbox{Metadata: request.SandboxMetadata{UID: "uid"}}})
	r.sandboxes[s.id] = s
	return s, r
}
