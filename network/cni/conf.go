package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
)

// maxConf bounds a configuration file.
const maxConf = 1 << 20

// A configuration is what the CNI directory says at a moment.
type configuration struct {
	files  []string // all that look like configuration
	path   string   // the one that counts, the first by name that can be read
	list   *libcni.NetworkConfigList
	broken []error
}

func (c configuration) err(dir string) error {
	if c.list != nil {
		return nil
	}
	if len(c.files) == 0 {
		return fmt.Errorf("no CNI configuration in %s: %w", dir, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("no CNI configuration in %s can be used: %w: %w", dir, errors.Join(c.broken...), errdefs.ErrUnavailable)
}

// readDir reads the directory as containerd and CRI-O do: files named .conflist, .conf and .json, in the order of their names; the
// first that can be used is the network.
func readDir(dir string) configuration {
	var c configuration
	if dir == "" {
		return c
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.files, c.broken = []string{dir}, []error{err}
		}
		return c
	}
	for _, e := range entries { // sorted by name
		if ext := filepath.Ext(e.Name()); e.IsDir() || !slices.Contains([]string{".conflist", ".conf", ".json"}, ext) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		c.files = append(c.files, path)
		list, err := readFile(path)
		if err != nil {
			c.broken = append(c.broken, fmt.Errorf("%s: %w", path, err))
			continue
		}
		if c.list == nil {
			c.path, c.list = path, list
		}
	}
	return c
}

func readFile(path string) (*libcni.NetworkConfigList, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxConf {
		return nil, fmt.Errorf("not a regular file of at most %d bytes", maxConf)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := parse(data, filepath.Ext(path) == ".conflist")
	if err != nil {
		return nil, err
	}
	if isList := filepath.Ext(path) == ".conflist"; isList && !list.LoadOnlyInlinedPlugins && plainName(list.Name) {
		more, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(path), list.Name)
		if err != nil {
			return nil, err
		}
		list.Plugins = append(list.Plugins, more...)
	}
	return list, check(list)
}

// parse reads a conflist, or a single plugin's conf as a list of one.
func parse(data []byte, isList bool) (*libcni.NetworkConfigList, error) {
	if isList {
		return libcni.NetworkConfFromBytes(data)
	}
	conf, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(conf) //nolint:staticcheck // deprecated, and still what files of one plugin need
}

// check refuses what libcni would only refuse when a plugin is run. A plugin's name is looked up in the plugin directories; one that
// is a path would lead out of them (CVE-2021-20206).
func check(list *libcni.NetworkConfigList) error {
	if !plainName(list.Name) {
		return fmt.Errorf("network name %q: must be a plain name", list.Name)
	}
	if len(list.Plugins) == 0 {
		return errors.New("it names no plugins")
	}
	for _, p := range list.Plugins {
		if !plainName(p.Network.Type) {
			return fmt.Errorf("plugin type %q: must be the name of a file in a plugin directory, not a path", p.Network.Type)
		}
	}
	return nil
}

func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 200 && !strings.ContainsAny(s, "/\\\x00\n")
}
