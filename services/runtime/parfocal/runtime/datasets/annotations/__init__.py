"""Boxes drawn in images, in the formats in which people have them: PASCAL VOC, COCO and YOLO."""
