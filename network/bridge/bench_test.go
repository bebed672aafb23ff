package bridge

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/shimd/shimd/network/attachment"
	"github.com/shimd/shimd/network/nettest"
)

// BenchmarkPod measures Attach and Detach, without the making of namespaces: p50 of each, in microseconds, and pods a second.
func BenchmarkPod(b *testing.B) {
	for _, workers := range []int{1, 4} {
		for _, ports := range []int{0, 2} {
			b.Run(fmt.Sprintf("workers=%d/ports=%d", workers, ports), func(b *testing.B) { benchmarkPods(b, workers, ports) })
		}
	}
}

func benchmarkPods(b *testing.B, workers, ports int) {
	nettest.Require(b)
	n := open(b, Options{StateDir: nettest.Tmpfs(b)})
	attach(b, n, attachment.Request{ID: "warm"})
	var mu sync.Mutex
	var attached, detached []time.Duration
	const batch = 50 // namespaces are made ahead and let go behind the clock
	b.ResetTimer()
	for done := 0; done < b.N; done += batch {
		b.StopTimer()
		spaces := make([]*nettest.Namespace, min(batch, b.N-done))
		work := make(chan int, len(spaces))
		for i := range spaces {
			spaces[i] = nettest.NewNamespace(b)
			work <- i
		}
		close(work)
		b.StartTimer()
		var wg sync.WaitGroup
		for range workers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := range work {
					req := attachment.Request{ID: fmt.Sprint("s", done+i), NetNSPath: spaces[i].Path}
					for p := range ports {
						req.PortMappings = append(req.PortMappings, attachment.PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: uint16(10000 + 2*i + p)})
					}
					t0 := time.Now()
					if _, err := n.Attach(context.Background(), req); err != nil {
						b.Error(err)
						return
					}
					t1 := time.Now()
					if err := n.Detach(context.Background(), req.ID); err != nil {
						b.Error(err)
						return
					}
					t2 := time.Now()
					mu.Lock()
					attached, detached = append(attached, t1.Sub(t0)), append(detached, t2.Sub(t1))
					mu.Unlock()
				}
			}()
		}
		wg.Wait()
		b.StopTimer()
		for _, ns := range spaces {
			ns.Close()
		}
		b.StartTimer()
	}
	for name, list := range map[string][]time.Duration{"attach": attached, "detach": detached} {
		if len(list) > 0 {
			slices.Sort(list)
			b.ReportMetric(float64(list[len(list)/2].Microseconds()), name+"-p50-µs")
		}
	}
}
