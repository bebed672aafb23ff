package examples_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestServices(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "services")
	s.apply("services/web.yaml")
	s.rollout("deployment/web")
	s.wait("condition=Ready", "pod/client")
	for _, name := range []string{"cluster-ip", "node-port", "headless", "sticky"} {
		s.endpoints(name, 3)
	}
	pods, addresses := map[string]bool{}, map[string]bool{}
	for _, pod := range s.running("app=web") {
		pods[pod.Name], addresses[pod.Status.PodIP] = true, true
	}
	answers := func(url string) func() error {
		return func() error {
			seen := distinct(s.ask("for i in $(seq 40); do curl -sm 10 http://" + url + "/hostname; echo; done"))
			for name := range seen {
				if !pods[name] {
					return fmt.Errorf("%s answered", name)
				}
			}
			if len(seen) != 3 {
				return fmt.Errorf("answers came from %v", seen)
			}
			return nil
		}
	}
	s.eventually("cluster-ip to answer", answers("cluster-ip"))
	s.eventually("cluster-ip to answer by its address", answers(s.field("service/cluster-ip", "{.spec.clusterIP}")))
	// Who resolves a name to several addresses tries the nearest first (RFC 6724): all answers may come from one pod. That the name has all is seen below.
	s.eventually("headless to answer", func() error {
		if name := strings.TrimSpace(s.ask("curl -sm 10 http://headless:8080/hostname")); !pods[name] {
			return fmt.Errorf("%q answered", name)
		}
		return nil
	})

	port := s.field("service/node-port", "{.spec.ports[0].nodePort}")
	for _, node := range shared.Nodes() {
		at := net.JoinHostPort(node.Address(), port)
		s.eventually("a pod at "+at, func() error {
			name, err := fetch("http://" + at + "/hostname")
			if err == nil && !pods[name] {
				err = fmt.Errorf("%q answered", name)
			}
			return err
		})
		s.eventually(at+" to answer from inside", answers(at))
	}

	s.eventually("the headless Service's addresses", func() error {
		found := distinct(s.ask("dig +search +short headless"))
		for address := range found {
			if !addresses[address] {
				return fmt.Errorf("%s is none of %v", address, addresses)
			}
		}
		if len(found) != 3 {
			return fmt.Errorf("they are %v", found)
		}
		return nil
	})
	if alias := s.ask("dig +search +short external-name CNAME"); strings.TrimSpace(alias) != "www.example.com." {
		t.Errorf("the external name is %q", alias)
	}
	if seen := distinct(s.ask("for i in $(seq 20); do curl -sm 10 http://sticky/hostname; echo; done")); len(seen) != 1 {
		t.Errorf("the sticky Service's answers came from %v", seen)
	}
}

func fetch(url string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}
