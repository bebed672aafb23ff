package network

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/shimd/shimd/network/bridge"
)

// fakeConf is the part of the plugin's configuration that says how it should behave.
type fakeConf struct {
	Version string `json:"cniVersion"`
	Name    string `json:"name"`
	Type    string `json:"type"`
	Mode    string `json:"mode"`  // "", "hang", "huge", "nonsense", "fail", "notready"
	State   string `json:"state"` // where it keeps what it knows
	Runtime struct {
		PortMappings []struct {
			HostPort, ContainerPort uint16
			Protocol                string
		} `json:"portMappings"`
	} `json:"runtimeConfig"`
	Capabilities map[string]bool `json:"capabilities"`
}

// fakeCNI configures the test binary as the only plugin of a network.
func fakeCNI(t testing.TB, state string, c fakeConf) Options {
	t.Helper()
	bin, conf := filepath.Join(state, "bin"), filepath.Join(state, "net.d")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "fake")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	writeFake(t, conf, "10-fake.conflist", state, c)
	return Options{StateDir: filepath.Join(state, "shimd"), CNIConfDir: conf, CNIBinDirs: []string{bin}}
}

func writeFake(t testing.TB, dir, name, state string, c fakeConf) {
	t.Helper()
	c.Type, c.State = "fake", filepath.Join(state, "fake")
	c.Capabilities = map[string]bool{"portMappings": true, "bandwidth": true, "dns": true, "cgroupPath": true, "io.kubernetes.cri.pod-annotations": true}
	if c.Version == "" {
		c.Version = "1.1.0"
	}
	text, err := json.Marshal(map[string]any{"cniVersion": c.Version, "name": "fakenet", "plugins": []any{c}})
	if err != nil {
		t.Fatal(err)
	}
	writeConf(t, dir, name, string(text))
}

// fakePlugin is the plugin: the built-in network behind the CNI protocol.
func fakePlugin() int {
	stdin, _ := io.ReadAll(os.Stdin)
	var c fakeConf
	if err := json.Unmarshal(stdin, &c); err != nil {
		return fakeError(err)
	}
	if err := os.MkdirAll(c.State, 0o755); err != nil {
		return fakeError(err)
	}
	command := os.Getenv("CNI_COMMAND")
	log, _ := os.OpenFile(filepath.Join(c.State, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	fmt.Fprintf(log, "%s %s %s %s\n", command, os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_ARGS"), stdin)
	switch {
	case c.Mode == "hang" && command == "ADD":
		child := exec.Command("sleep", "1000") // which holds our output open
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return fakeError(err)
		}
		fmt.Fprintf(log, "child %d\n", child.Process.Pid)
		select {}
	case c.Mode == "huge" && command == "ADD":
		fmt.Print(strings.Repeat("x", 3<<20))
		return 0
	case c.Mode == "nonsense" && command == "ADD":
		fmt.Print(`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8","interface":7}]}`)
		return 0
	case c.Mode == "fail" && command == "ADD", c.Mode == "notready" && command == "STATUS":
		fmt.Print(`{"cniVersion":"1.0.0","code":50,"msg":"the fabric is on fire"}`)
		return 1
	}
	unlock, err := lock(filepath.Join(c.State, "lock"))
	if err != nil {
		return fakeError(err)
	}
	defer unlock()
	// A bridge and addresses of this test's own: the kernel may take a while to remove the namespaces of an earlier one.
	hash := fnv.New32a()
	hash.Write([]byte(c.State))
	name := fmt.Sprintf("fake%d", hash.Sum32()%256)
	n, err := bridge.Open(bridge.Options{
		StateDir: c.State, BridgeName: name, TableName: name, PodCIDR: fmt.Sprintf("10.93.%d.0/24,fd00:93:%[1]d::/64", hash.Sum32()%256), Masquerade: true,
	})
	if err != nil {
		return fakeError(err)
	}
	id := os.Getenv("CNI_CONTAINERID")
	switch command {
	case "ADD":
		return fakeAdd(n, c, id)
	case "DEL":
		if err := n.Detach(context.Background(), id); err != nil {
			return fakeError(err)
		}
	}
	return 0
}

func fakeAdd(n *bridge.Network, c fakeConf, id string) int {
	req := Request{ID: id, NetNSPath: os.Getenv("CNI_NETNS")}
	for _, p := range c.Runtime.PortMappings {
		req.PortMappings = append(req.PortMappings, PortMapping{Protocol: p.Protocol, HostPort: p.HostPort, ContainerPort: p.ContainerPort})
	}
	res, err := n.Attach(context.Background(), req)
	if err != nil {
		return fakeError(err)
	}
	zero := 0
	out := types100.Result{CNIVersion: c.Version, Interfaces: []*types100.Interface{{Name: "eth0", Sandbox: req.NetNSPath}}}
	for _, ip := range res.IPs {
		out.IPs = append(out.IPs, &types100.IPConfig{Interface: &zero, Address: *ipNet(ip)})
	}
	_ = out.Print()
	return 0
}

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen()-8, a.BitLen())}
}

func fakeError(err error) int {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "1.0.0", "code": 999, "msg": err.Error()})
	return 1
}
