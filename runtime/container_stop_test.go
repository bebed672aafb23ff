package runtime

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	const grace = time.Hour
	for name, c := range map[string]struct {
		promised time.Duration // from now; 0: nothing was promised
		want     time.Duration
	}{
		"the first stop":                   {0, grace},
		"cut short by a restart":           {time.Minute, time.Minute},
		"its end came while no daemon ran": {-time.Minute, 0},
		"given up long ago":                {-2 * grace, grace},
		"an earlier one had more patience": {3 * grace, grace},
	} {
		container := &container{dir: t.TempDir(), record: containerRecord{ID: "c", Phase: containerRunning}}
		if c.promised != 0 {
			container.promised = time.Now().Add(c.promised)
		}
		got := container.patience(grace).Round(time.Minute)
		if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if recorded := container.snapshot().KillAt; recorded.IsZero() != (c.want != grace) {
			t.Errorf("%s: recorded %v", name, recorded)
		}
	}
}
